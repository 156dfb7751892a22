"""Recurrent layers that integrate a differential equation, and their cells."""

from keras_pde.layers.recurrent.antisymmetric_rnn_cell import AntisymmetricRNNCell
from keras_pde.layers.recurrent.co_rnn_cell import CoRNNCell
from keras_pde.layers.recurrent.layers import AntisymmetricRNN, CoRNN, LipschitzRNN
from keras_pde.layers.recurrent.lipschitz_rnn_cell import LipschitzRNNCell

__all__ = [
    "AntisymmetricRNN",
    "AntisymmetricRNNCell",
    "CoRNN",
    "CoRNNCell",
    "LipschitzRNN",
    "LipschitzRNNCell",
]
