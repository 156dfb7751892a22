"""Keras layers; each works on every backend."""

from keras_pde.layers.batch_norm import batch_norm
from keras_pde.layers.continuous import ContinuousBlock
from keras_pde.layers.tanh_logits import TanhLogits

__all__ = ["ContinuousBlock", "TanhLogits", "batch_norm"]
