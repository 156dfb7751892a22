"""Layers whose equations are stable, and which know the steps for which their networks are."""

from keras_pde.layers.stable.antisymmetric_block import AntisymmetricBlock
from keras_pde.layers.stable.antisymmetric_conv2d import AntisymmetricConv2D
from keras_pde.layers.stable.antisymmetric_dense import AntisymmetricDense
from keras_pde.layers.stable.cayley_dense import CayleyDense
from keras_pde.layers.stable.hamiltonian_block import HamiltonianBlock
from keras_pde.layers.stable.parabolic_block import ParabolicBlock
from keras_pde.layers.stable.second_order_block import SecondOrderBlock
from keras_pde.layers.stable.symmetric_conv2d import SymmetricConv2D
from keras_pde.layers.stable.symmetric_dense import SymmetricDense
from keras_pde.layers.stable.tv_normalization import TVNormalization

__all__ = [
    "AntisymmetricBlock",
    "AntisymmetricConv2D",
    "AntisymmetricDense",
    "CayleyDense",
    "HamiltonianBlock",
    "ParabolicBlock",
    "SecondOrderBlock",
    "SymmetricConv2D",
    "SymmetricDense",
    "TVNormalization",
]
