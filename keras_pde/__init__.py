"""keras_pde: stable and robust networks for Keras 3, from differential equations."""

from keras_pde import (
    analysis,
    attacks,
    callbacks,
    data,
    layers,
    models,
    objectives,
    optimizers,
    recipes,
)
from keras_pde.evaluation import Report, evaluate
from keras_pde.hub import list_models, load_model, save_model
from keras_pde.odeint import odeint
from keras_pde.threat import Threat
from keras_pde.training import RobustModel

__version__ = "0.1.0"

__all__ = [
    "Report",
    "RobustModel",
    "Threat",
    "analysis",
    "attacks",
    "callbacks",
    "data",
    "evaluate",
    "layers",
    "list_models",
    "load_model",
    "models",
    "objectives",
    "odeint",
    "optimizers",
    "recipes",
    "save_model",
]
