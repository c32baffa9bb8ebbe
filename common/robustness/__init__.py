"""Robustness instruments: corruptions, attacks, occlusion, metrics, benchmark sets."""
