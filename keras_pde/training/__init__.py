"""Training with robust objectives: `kp.RobustModel`, `kp.objectives`, `kp.callbacks`."""

from keras_pde.training import callbacks, objectives
from keras_pde.training.robust_model import RobustModel

__all__ = ["RobustModel", "callbacks", "objectives"]
