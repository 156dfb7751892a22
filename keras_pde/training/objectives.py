"""The public list of objectives: `kp.objectives`."""

from keras_pde.training.adversarial import Adversarial
from keras_pde.training.gradient_penalty import GradientPenalty
from keras_pde.training.max_gradient_penalty import MaxGradientPenalty
from keras_pde.training.objective import DataTerm, Objective, Penalty
from keras_pde.training.plain import Plain
from keras_pde.training.tikhonov import Tikhonov
from keras_pde.training.tulip import Tulip

__all__ = [
    "Adversarial",
    "DataTerm",
    "GradientPenalty",
    "MaxGradientPenalty",
    "Objective",
    "Penalty",
    "Plain",
    "Tikhonov",
    "Tulip",
]
