"""Blocks that are continuous in depth, and depth as a dial."""

from keras_pde.layers.continuous.continuous_block import ContinuousBlock
from keras_pde.layers.continuous.depth import project, refine, shorten, with_solver

__all__ = ["ContinuousBlock", "project", "refine", "shorten", "with_solver"]
