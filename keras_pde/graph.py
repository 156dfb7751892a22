"""A model as operations in order, and rules that say what an operation means to a question.

A rule is registered beside the layer that it is about:

    @graph.rule("cost", MyLayer)
    def _cost(layer, args, output): ...

It holds for exactly that type, since a subclass may have a `call` of its own, unless it says that
it holds for subclasses. What a rule takes and returns is told by who asks:

    "cost"        keras_pde/cost.py: multiply-adds of one call
    "scale"       attacks/folding.py: a normalization in inference, as scale and shift of channels
    "absorb"      attacks/folding.py: a linear layer that takes such a scale and shift over
    "activation"  `activation`: name of the function that a layer ends with
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras

from keras_pde import _keras
from keras_pde.registry import unknown_name

KINDS = ("absorb", "activation", "cost", "scale")

_rules: dict[tuple[str, type | str], Callable] = {}
_of_subclasses: dict[tuple[str, type], Callable] = {}


def rule(kind: str, *operations, subclasses: bool = False) -> Callable:
    """Decorator that registers a function as the rule of these operations.

    Args:
        kind: one of `KINDS`.
        *operations: layer classes; or names of the operations of `keras.ops`, such as "Softmax".
        subclasses: whether it holds for subclasses that have no rule of their own.

    Raises:
        ValueError: the kind is unknown, or there is such a rule already.
    """
    if kind not in KINDS:
        raise unknown_name("kind of rule", kind, KINDS)

    def decorate(function):
        for operation in operations:
            if (kind, operation) in _rules:
                raise ValueError(f"Received a second {kind!r} rule for {operation!r}.")
            _rules[kind, operation] = function
            if subclasses:
                _of_subclasses[kind, operation] = function
        return function

    return decorate


def rule_of(kind: str, operation) -> Callable | None:
    """The rule of an operation, or `None`."""
    own = type(operation)
    if (kind, own) in _rules:
        return _rules[kind, own]
    if not isinstance(operation, keras.layers.Layer):
        return _rules.get((kind, own.__name__))
    bases = (base for base in own.__mro__ if (kind, base) in _of_subclasses)
    return next((_of_subclasses[kind, base] for base in bases), None)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of an operation in a model.

    Attributes:
        operation: the layer, nested model, or operation of `keras.ops`.
        inputs, outputs: lists of the symbolic tensors that it takes and makes.
    """

    operation: object
    inputs: list
    outputs: list


def calls(model) -> list[Call]:
    """The calls that make a Functional or Sequential model, in order; a nested model is one.

    Raises:
        ValueError: it is no graph of layers.
    """
    return [Call(*found) for found in _keras.calls_in(checked(model))]


def checked(model):
    """The graph of a Functional or Sequential model.

    Raises:
        ValueError: it is subclassed, or not built.
    """
    graph = _keras.graph_of(model)
    if graph is None:
        raise ValueError(
            f"Received a model of type {type(model).__name__}; expected a Functional model, or a "
            "Sequential one that has an Input. Of a RobustModel, pass its `model`."
        )
    return graph


def run(model, inputs, replaced):
    """The outputs of a model with other things done in the place of its operations.

    Args:
        model: Functional or Sequential.
        inputs: tensors, symbolic or not.
        replaced: function of an operation (of nested models too, whose turn comes first) that
            returns what to call in its place; `None` for the operation itself, and for the
            operations of a nested model one by one.

    Raises:
        ValueError: it is no graph of layers.
    """

    def operation_of(operation):
        other = replaced(operation)
        if other is not None:
            return other
        if _keras.graph_of(operation) is None:
            return operation
        return lambda *args, **kwargs: run(operation, given(args, kwargs), replaced)

    return _keras.run_graph(checked(model), inputs, operation_of)


def given(args, kwargs):
    """The inputs of a call, which may be given by their name."""
    return args[0] if args else kwargs["inputs"]


def activation(model) -> str | None:
    """Name of the activation that a model ends with, such as "softmax"; `None` if it can't be told.

    Rule: function of the layer that returns the name, or `None`.
    """
    if _keras.graph_of(model) is not None:
        makers = {id(tensor): call for call in calls(model) for tensor in call.outputs}
        call = makers.get(id(model.outputs[0])) if len(model.outputs) == 1 else None
        while call and _changes_nothing(call.operation):
            call = makers.get(id(call.inputs[0]))
        return activation(call.operation) if call else None
    if type(model) is keras.Sequential:  # not built; it runs its layers in the order of the list
        layers = [layer for layer in model.layers if not _changes_nothing(layer)]
        return activation(layers[-1]) if layers else None
    found = rule_of("activation", model)
    return found(model) if found else None


def _changes_nothing(operation):
    """Whether it only casts, as layers at the end of models in mixed precision do."""
    if type(operation) is keras.layers.Activation:
        return operation.activation is keras.activations.linear
    return type(operation) is keras.layers.Identity


@rule(
    "activation",
    keras.layers.Activation,
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
)
def _of_layer(layer):
    return getattr(layer.activation, "__name__", None)


@rule("activation", keras.layers.Softmax, "Softmax")
def _softmax(operation):
    return "softmax"


@rule("activation", "Sigmoid")
def _sigmoid(operation):
    return "sigmoid"
