"""Callbacks: `kp.callbacks`."""

from keras_pde.training.robust_validation import RobustValidation

__all__ = ["RobustValidation"]
