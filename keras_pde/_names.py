"""The names of the package that are imported with it; which, its `__all__` says."""

# ruff: noqa: F401

from keras_pde import (
    analysis,
    attacks,
    callbacks,
    data,
    hub,
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
