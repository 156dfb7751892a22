"""Blocks that are continuous in depth."""

from keras_pde.layers.continuous.continuous_block import ContinuousBlock

__all__ = ["ContinuousBlock"]
