"""Training with robust objectives: `kp.RobustModel` and `kp.objectives`."""

from keras_pde.training import objectives
from keras_pde.training.robust_model import RobustModel

__all__ = ["RobustModel", "objectives"]
