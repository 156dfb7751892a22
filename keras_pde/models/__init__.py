"""Architectures by name, normalisation inside and logits out, and maps from models to models."""

from typing import Any

import keras

from keras_pde import registry
from keras_pde.models.continuous_net import continuous_net
from keras_pde.models.depth import project, refine, shorten, with_solver
from keras_pde.models.features import features
from keras_pde.models.from_config import FROM_CONFIG, from_config, to_config
from keras_pde.models.hamiltonian_net import hamiltonian_net
from keras_pde.models.lenet import lenet
from keras_pde.models.mlp import mlp
from keras_pde.models.multiply_adds import multiply_adds
from keras_pde.models.parabolic_net import parabolic_net
from keras_pde.models.preact_resnet import preact_resnet
from keras_pde.models.resnext34_2x32 import resnext34_2x32
from keras_pde.models.second_order_net import second_order_net
from keras_pde.models.small_cnn import small_cnn

__all__ = [
    "continuous_net",
    "create",
    "features",
    "from_config",
    "hamiltonian_net",
    "lenet",
    "mlp",
    "multiply_adds",
    "parabolic_net",
    "preact_resnet",
    "project",
    "refine",
    "resnext34_2x32",
    "second_order_net",
    "shorten",
    "small_cnn",
    "to_config",
    "with_solver",
]


def create(name: str, **kwargs: Any) -> keras.Model:
    """The model of that name.

    Args:
        name: of a registered model, such as `"small_cnn"`; or `"from_config"`, for one of your own.
        **kwargs: its arguments.

    Raises:
        ValueError: the name or an argument is unknown.

    Example:

    >>> model = keras_pde.models.create("small_cnn", width=8)
    """
    made = from_config if name == FROM_CONFIG else registry.get("model", name)
    return registry.create(made, kwargs, f"model {name!r}")
