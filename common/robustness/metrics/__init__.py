"""Robustness metrics with the constants of their sources, one subject a module."""
