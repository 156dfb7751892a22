"""Keras layers; each works on every backend."""

from keras_pde.layers.batch_norm import batch_norm
from keras_pde.layers.continuous import ContinuousBlock, NeuralODE
from keras_pde.layers.recurrent import (
    AntisymmetricRNN,
    AntisymmetricRNNCell,
    CoRNN,
    CoRNNCell,
    LipschitzRNN,
    LipschitzRNNCell,
)
from keras_pde.layers.stable import (
    AntisymmetricBlock,
    AntisymmetricConv2D,
    AntisymmetricDense,
    CayleyDense,
    HamiltonianBlock,
    ParabolicBlock,
    SecondOrderBlock,
    SymmetricConv2D,
    SymmetricDense,
    TVNormalization,
)
from keras_pde.layers.tanh_logits import TanhLogits

__all__ = [
    "AntisymmetricBlock",
    "AntisymmetricConv2D",
    "AntisymmetricDense",
    "AntisymmetricRNN",
    "AntisymmetricRNNCell",
    "CayleyDense",
    "CoRNN",
    "CoRNNCell",
    "ContinuousBlock",
    "HamiltonianBlock",
    "LipschitzRNN",
    "LipschitzRNNCell",
    "NeuralODE",
    "ParabolicBlock",
    "SecondOrderBlock",
    "SymmetricConv2D",
    "SymmetricDense",
    "TVNormalization",
    "TanhLogits",
    "batch_norm",
]
