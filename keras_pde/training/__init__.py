"""Training with robust objectives: `kp.RobustModel`."""

from keras_pde.training.robust_model import RobustModel

__all__ = ["RobustModel"]
