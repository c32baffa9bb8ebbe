"""Narrow backbones for the tests of detectors and segmenters; their maps are like those of the paper's."""

NARROW = {"embed_dims": (16,), "depths": (1,), "num_heads": (2,)}
