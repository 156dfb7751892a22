"""Recipes: a TOML file becomes a trained, evaluated, saved model."""

from keras_pde.recipes.build import check
from keras_pde.recipes.recipe import Recipe, load, parse_change, parse_value
from keras_pde.recipes.run_folder import RunFolder
from keras_pde.recipes.train import train

__all__ = ["Recipe", "RunFolder", "check", "load", "parse_change", "parse_value", "train"]
