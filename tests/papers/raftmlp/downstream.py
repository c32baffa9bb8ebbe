"""Narrow backbones for the tests of detectors and segmenters; their maps are like those of the paper's."""

NARROW = {"dims": (16, 16, 16, 16), "depths": (1, 1, 1, 1)}
