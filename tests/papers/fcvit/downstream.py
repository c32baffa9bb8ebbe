"""Narrow backbones for the tests of detectors and segmenters; their maps are like those of the paper's."""

NARROW = {"dims": (8, 16, 32, 64), "depths": (1, 1, 1, 1)}
