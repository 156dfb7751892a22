"""Objectives, one data term plus penalties: `kp.objectives`."""

from keras_pde.objectives.adversarial import Adversarial
from keras_pde.objectives.get import get
from keras_pde.objectives.gradient_penalty import GradientPenalty
from keras_pde.objectives.max_gradient_penalty import MaxGradientPenalty
from keras_pde.objectives.objective import DataTerm, Objective, Penalty, Plain
from keras_pde.objectives.tikhonov import Tikhonov
from keras_pde.objectives.tulip import Tulip

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
    "get",
]
