"""Saved and published models: cards, folders that can be checked, and the list of the zoo."""

from keras_pde.evaluation.measurement import Measurement
from keras_pde.hub.card import Card
from keras_pde.hub.folder import save_model
from keras_pde.hub.index import list_models
from keras_pde.hub.load import load_card, load_model
from keras_pde.hub.publishing import publish

__all__ = [
    "Card",
    "Measurement",
    "list_models",
    "load_card",
    "load_model",
    "publish",
    "save_model",
]
