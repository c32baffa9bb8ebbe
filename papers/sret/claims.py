"""How the claims are measured."""
