"""Saved and published models: cards, folders that can be checked, and the list of the zoo."""

from keras_pde.hub.card import Card
from keras_pde.hub.folder import load_card, save_model
from keras_pde.hub.load import load_model
from keras_pde.hub.measurement import Measurement

__all__ = ["Card", "Measurement", "load_card", "load_model", "save_model"]
