"""Trainings on machines that have a GPU for minutes, and neither a network nor this package."""

from keras_pde.offline.collect import collect
from keras_pde.offline.machine import Machine, probe
from keras_pde.offline.pack import pack

__all__ = ["Machine", "collect", "pack", "probe"]
