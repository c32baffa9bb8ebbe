"""The embedded bench: small models trained alike, and what their numbers say."""
