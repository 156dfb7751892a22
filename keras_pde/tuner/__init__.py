"""Keras Tuner over recipes: which values of a recipe give the most robust model."""

from keras_pde.tuner.hypermodel import RobustHyperModel
from keras_pde.tuner.search import OBJECTIVES, TUNERS, search
from keras_pde.tuner.space import Space, spaces
from keras_pde.tuner.trials import Trial, ranked

__all__ = [
    "OBJECTIVES",
    "TUNERS",
    "RobustHyperModel",
    "Space",
    "Trial",
    "ranked",
    "search",
    "spaces",
]
