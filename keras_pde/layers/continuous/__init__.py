"""Blocks that are continuous in depth."""

from keras_pde.layers.continuous.continuous_block import ContinuousBlock
from keras_pde.layers.continuous.neural_ode import NeuralODE

__all__ = ["ContinuousBlock", "NeuralODE"]
