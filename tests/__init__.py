"""The tests; a package, so that a `tests` that an installed distribution brings along does not take its place."""
