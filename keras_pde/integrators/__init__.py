"""Integrators of differential equations, as data: each is a scheme that one engine executes.

A scheme advances a state by one step of length h. It sees the right-hand side only as
`field(stage, y)`, so the caller decides what a stage reads: time, or the weights of a layer at that
depth. `nodes` says at which fraction of the step each stage lies.
"""

from keras_pde.integrators.named import get, names, serialize
from keras_pde.integrators.partitioned import SymplecticEuler, Verlet
from keras_pde.integrators.runge_kutta import RungeKutta
from keras_pde.integrators.scheme import Scheme
from keras_pde.integrators.two_step import TwoStepMidpoint

__all__ = [
    "RungeKutta",
    "Scheme",
    "SymplecticEuler",
    "TwoStepMidpoint",
    "Verlet",
    "get",
    "names",
    "serialize",
]
