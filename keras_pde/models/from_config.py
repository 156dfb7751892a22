"""Networks of one's own as data: the configuration that Keras writes, each part of it checked."""

import copy
import json
import math
import re
import warnings
from typing import Any

import keras

from keras_pde import _keras, cost

FROM_CONFIG = "from_config"  # as an architecture

# They run code, or read files, that a configuration names.
_REFUSED = (
    keras.layers.FlaxLayer,
    keras.layers.IntegerLookup.__base__,  # of all that look up
    keras.layers.JaxLayer,
    keras.layers.Lambda,
    keras.layers.TextVectorization,
    keras.layers.TFSMLayer,
    keras.layers.TorchModuleWrapper,
)
_RECURRENT = [
    layer
    for layer in vars(keras.layers).values()
    if isinstance(layer, type) and issubclass(layer, keras.layers.RNN)
]
_VALUES = ("__ellipsis__", "__keras_tensor__", "__numpy__", "__slice__", "__tensor__")
_DTYPE = r"(bfloat|float|int|uint)\d\d?|bool"
_ACTIVATIONS = dir(keras.activations)
_MOST_CALLS = 2_000  # ResNet-152 has 500
_MOST_NUMBERS = 2**28  # in the outputs of all operations, for one example


def to_config(model: keras.Model) -> dict[str, Any]:
    """The configuration of a network, of which `from_config` makes it anew, without its weights.

    Args:
        model: built of layers of Keras, of this library, and of classes that are registered with
            `keras.saving.register_keras_serializable`; a subclassed model is such a class too.

    Returns:
        A dict that JSON can hold.

    Raises:
        ValueError: a layer is of a class that is not registered, is a `Lambda` or another whose
            configuration names code or files, or is quantised; or the model is not built.

    Example:

    >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> same = keras_pde.models.from_config(keras_pde.models.to_config(network))
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            f"Received model of type {type(model).__name__}; expected a keras.Model that is built: "
            "with an Input, or called once."
        )
    quantised = [x.name for x in _keras.layers_of(model) if getattr(x, "quantization_mode", None)]
    if quantised:
        raise ValueError(
            f"Received a model with the quantised layers {quantised}; expected the model before "
            "`quantize`."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of lambdas, which are refused below
            config = keras.saving.serialize_keras_object(model)
        config = json.loads(json.dumps(_without_compile(config)))
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
        ValueError: it names anything else, has more than 2,000 calls of layers, or Keras cannot
            make a model of it.

    Example: see `to_config`.
    """
    try:
        _check(config)
        calls = _calls(config)
    except RecursionError:
        calls = math.inf
    if calls > _MOST_CALLS:
        raise ValueError(
            f"Received a configuration with {calls} calls of layers, those within others counted; "
            f"expected at most {_MOST_CALLS}."
        )
    try:
        model = keras.saving.deserialize_keras_object(copy.deepcopy(config))  # Keras empties it
    except _keras.TooLarge:
        raise
    except Exception as error:  # any: a forged one can go wrong anywhere within Keras
        raise ValueError(
            f"Received a configuration of which Keras makes no network; expected one that "
            f"`models.to_config` gave. {type(error).__name__}: {str(error)[:300]}"
        ) from error
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"Received the configuration of a {type(model).__name__}; expected one of a model."
        )
    return model


def check_sizes(model: keras.Model, shape: tuple[int, ...]) -> None:
    """Refuses a network that makes too many numbers of one example of that shape to be run."""
    if _keras.graph_of(model) is None or len(model.inputs) != 1:
        return
    one = keras.KerasTensor((1, *shape), dtype=model.inputs[0].dtype)

    def numbers(operation, args, output):
        return sum(math.prod(tensor.shape) for tensor in keras.tree.flatten(output))

    try:
        found = cost.of(model, [one], measure=numbers)
    except Exception:  # Keras cannot tell without a call
        return
    if found > _MOST_NUMBERS:
        raise ValueError(
            f"Received a network that makes {found} numbers of one example; expected at most "
            f"{_MOST_NUMBERS}."
        )


def _without_compile(value):
    if isinstance(value, dict):
        return {k: _without_compile(v) for k, v in value.items() if k != "compile_config"}
    return [_without_compile(item) for item in value] if isinstance(value, list) else value


def _calls(value):
    """How many calls of layers a configuration makes, those in nested models each time."""
    if isinstance(value, list | tuple):
        return sum(map(_calls, value))
    if not isinstance(value, dict):
        return 0
    within = sum(_calls(v) for k, v in value.items() if k != "inbound_nodes")
    found = _class_of(value) if "class_name" in value else None
    if not (isinstance(found, type) and issubclass(found, keras.Operation)):  # an initializer, say
        return within
    nodes = value.get("inbound_nodes")
    return (len(nodes) if isinstance(nodes, list) and nodes else 1) * (1 + within)


def _check(value):
    """Refuses all that is neither a plain value nor a known part."""
    if isinstance(value, dict):
        if value.get("class_name") in _VALUES:
            _check_value(value)
        elif "class_name" in value:
            _check_part(value)
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            _check(item)


def _check_value(part):
    """Arrays are of numbers."""
    values = part.get("config")
    dtype = values.get("dtype", "float32") if isinstance(values, dict) else "float32"
    if not isinstance(dtype, str) or not re.fullmatch(_DTYPE, dtype):
        raise ValueError(f"Received a configuration with an array of {dtype!r}; expected numbers.")


def _check_part(part):
    name = part["class_name"]
    if name == "function":
        name, fix = part.get("config"), "@keras.saving.register_keras_serializable()"
        # Under another module Keras would import that.
        of_keras = part.get("module") == "builtins" and name in _ACTIVATIONS
        found = _registered(name) or (of_keras and name not in ("deserialize", "get", "serialize"))
    else:
        found = _class_of(part)
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
    config = part.get("config")
    if found in _RECURRENT and isinstance(config, dict) and config.get("unroll"):
        raise ValueError(
            f"Received a configuration with a {name} of unroll=True, which writes out any number "
            "of steps; expected unroll=False."
        )


def _class_of(part):
    """What Keras takes for the class of a part, if it is known; else `None`."""
    name = part["class_name"]
    # Without a module Keras would take it for one of an older kind, which may hold code; what
    # begins with underscores it takes for code or a value before it looks for a class.
    known = isinstance(part.get("module", 0), str | None) and isinstance(name, str)
    if not known or name.startswith("__"):
        return None
    found = _registered(part.get("registered_name", name))
    return found or _keras.part_named(part["module"], name)


def _registered(name):
    return keras.saving.get_registered_object(name) if isinstance(name, str) else None
