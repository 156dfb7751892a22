"""Data sets by name or path, and packs that carry them to machines without TensorFlow."""

from keras_pde.data.dataset import KEYS, Dataset, balanced_order
from keras_pde.data.load import NAMES, SAMPLE, available, load
from keras_pde.data.pack import pack
from keras_pde.data.unpack import unpack

__all__ = [
    "KEYS",
    "NAMES",
    "SAMPLE",
    "Dataset",
    "available",
    "balanced_order",
    "load",
    "pack",
    "unpack",
]
