"""Networks of one's own as data: the configuration that Keras writes, each part of it checked."""

import copy
import json
import math
import warnings
from typing import Any

import keras

from keras_pde import _keras, graph

FROM_CONFIG = "from_config"  # as an architecture

# They run code, or read files, that a configuration names.
_REFUSED = (
    keras.layers.FlaxLayer,
    keras.layers.IntegerLookup,
    keras.layers.JaxLayer,
    keras.layers.Lambda,
    keras.layers.StringLookup,
    keras.layers.TextVectorization,
    keras.layers.TFSMLayer,
    keras.layers.TorchModuleWrapper,
)
_VALUES = ("__ellipsis__", "__keras_tensor__", "__numpy__", "__slice__", "__tensor__")
_MOST = 2**26  # numbers in the output of an operation, for one example


def to_config(model: keras.Model) -> dict[str, Any]:
    """The configuration of a network, of which `from_config` makes it anew, without its weights.

    Args:
        model: built of layers of Keras, of this library, and of classes that are registered with
            `keras.saving.register_keras_serializable`; a subclassed model is such a class too.

    Returns:
        A dict that JSON can hold.

    Raises:
        ValueError: a layer is of a class that is not registered, or is a `Lambda`, or another whose
            configuration names code or files.

    Example:

    >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> same = keras_pde.models.from_config(keras_pde.models.to_config(network))
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"Received model of type {type(model).__name__}; expected a keras.Model.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of lambdas, which are refused below
            config = keras.saving.serialize_keras_object(model)
        config = json.loads(json.dumps({**config, "compile_config": {}}))
    except (NotImplementedError, OSError, TypeError) as error:  # OSError: of lambdas
        raise ValueError(
            f"Received a model {model.name!r} without a configuration; expected layers and models "
            f"with a `get_config` of values that JSON can hold. {error}"
        ) from error
    _check(config)
    return config


def from_config(config: dict[str, Any]) -> keras.Model:
    """The network of a configuration that `to_config` gave, with new weights.

    No code comes with a configuration: what it names is a part of networks in Keras, or has been
    registered before, by a module that is imported already.

    Args:
        config: of a Functional, Sequential or registered model.

    Raises:
        ValueError: it names anything else, Keras cannot make a model of it, or an operation of that
            would give more than 2**26 numbers an example.

    Example: see `to_config`.
    """
    _check(config)
    try:
        model = keras.saving.deserialize_keras_object(copy.deepcopy(config))  # Keras empties it
    except _keras.TooLarge:
        raise
    except Exception as error:  # any: a forged one can go wrong anywhere within Keras
        raise ValueError(
            f"Received a configuration of which Keras makes no network; expected one that "
            f"`models.to_config` gave. {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"Received the configuration of a {type(model).__name__}; expected one of a model."
        )
    _check_sizes(model)
    return model


def _check(value):
    """Refuses all that is neither a plain value nor a known part."""
    if isinstance(value, dict):
        if "class_name" in value and value["class_name"] not in _VALUES:
            _check_part(value)
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            _check(item)


def _check_part(part):
    name = part["class_name"]
    if name == "function":
        name, fix = part.get("config"), "@keras.saving.register_keras_serializable()"
        found = _registered(name) or (name in dir(keras.activations))
    else:
        # Without a module Keras would take it for one of an older kind, which may hold code.
        known = isinstance(part.get("module", 0), str | None)
        found = known and _registered(part.get("registered_name", name))
        found = found or (known and _keras.part_named(part["module"], name))
        fix = "a class with @keras.saving.register_keras_serializable()"
    if not found:
        raise ValueError(
            f"Received a configuration with {name!r} of {part.get('module')!r}, which is no part "
            f"of networks in Keras and not registered; expected {fix}, whose module is imported "
            "before (by commands: --import MODULE)."
        )
    if isinstance(found, type) and issubclass(found, _REFUSED):
        raise ValueError(
            f"Received a configuration with a {name}, which can name code or files; expected "
            "layers without: a registered class of your own in its place."
        )


def _registered(name):
    return keras.saving.get_registered_object(name) if isinstance(name, str) else None


def _check_sizes(model):
    if _keras.graph_of(model) is None:
        return
    for call in graph.calls(model):
        _check_sizes(call.operation)
        for tensor in call.outputs:
            if math.prod(size or 1 for size in tensor.shape) > _MOST:
                raise ValueError(
                    f"Received a configuration in which {call.operation.name!r} has the output "
                    f"{tensor.shape}; expected at most {_MOST} numbers an example."
                )
