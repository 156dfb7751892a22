"""Callbacks: `kp.callbacks`."""

from keras_pde.training.refine_depth import RefineDepth
from keras_pde.training.robust_validation import RobustValidation

__all__ = ["RefineDepth", "RobustValidation"]
