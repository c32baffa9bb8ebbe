"""Narrow backbones for the tests of detectors and segmenters; their maps are like those of the paper's."""

NARROW = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
