"""Ordinary differential equations, solved as a function of tensors."""

from keras_pde.odeint.odeint import odeint

__all__ = ["odeint"]
