"""Narrow backbones for the tests of detectors and segmenters; their maps are like those of the paper's."""

NARROW = {"embed_dim": 16, "depth": 2, "num_heads": 2, "projection": (8, 8)}
