"""Of layers and their graphs."""

import collections
import contextlib
import math
import sys

import keras
from keras import ops
from keras.src.backend.common import global_state
from keras.src.models.functional import Functional


def layers_of(root) -> list:
    """The layer or model and all layers within it, at any depth."""
    return list(root._flatten_layers())


def own_objects(*roots) -> dict:
    """Classes and functions by name, without which layers of the user's own are not made anew."""
    found = {}
    for layer in (layer for root in roots for layer in layers_of(root)):
        found[type(layer).__name__] = type(layer)
        for function in (getattr(layer, name, None) for name in ("activation", "function")):
            found[getattr(function, "__name__", None)] = function
    return {
        name: value
        for name, value in found.items()
        if name and getattr(value, "__module__", "keras").split(".")[0] != "keras"
    }


_PARTS = (
    keras.Operation,
    keras.constraints.Constraint,
    keras.dtype_policies.DTypePolicy,
    keras.initializers.Initializer,
    keras.random.SeedGenerator,
    keras.regularizers.Regularizer,
)


def part_named(module, name):
    """The class of a network's part that Keras writes so into configurations, or `None`."""
    if not (isinstance(module, str) and isinstance(name, str)) or module.split(".")[0] != "keras":
        return None
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) and issubclass(found, _PARTS) else None


def set_weights(model, weights) -> None:
    """`model.set_weights`, after which layers know that keep what they compute from theirs."""
    model.set_weights(weights)
    for layer in layers_of(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def has_random_layers(model) -> bool:
    """Whether a layer draws random numbers, as dropout, noise and augmentation do."""
    return any(layer._seed_generators for layer in layers_of(model))


def takes_training(model) -> bool:
    """Whether `call` of the model has an argument `training`."""
    return model._call_has_training_arg


def stateless_call(model, trainable, non_trainable, *args, call=None, **kwargs):
    """`model.stateless_call` with its losses, and with what it drops.

    Args:
        call: function that calls the model, if it is not the model itself.

    Returns:
        `(outputs, updates, writes, losses, assigned)`: `writes` says how often each non-trainable
        variable was assigned; `assigned` maps the number of a trainable one to the value that a
        layer has assigned to it, as `SpectralNormalization` does.
    """
    others = zip(model.non_trainable_variables, non_trainable, strict=True)
    with _Scope(model.trainable_variables, trainable, others) as scope:
        outputs = (call or model)(*args, **kwargs)
        losses = model.losses
    updates = [scope.get_current_value(v) for v in model.non_trainable_variables]
    writes = [scope.writes[id(v)] for v in model.non_trainable_variables]
    return outputs, updates, writes, losses, scope.assigned


class _Scope(keras.StatelessScope):
    """What is assigned to a trainable variable moves with its value before by the same amount.

    So the derivative is as if it had been assigned before the step.
    """

    def __init__(self, variables, values, others):
        self.before = {
            id(variable): (number, value)
            for number, (variable, value) in enumerate(zip(variables, values, strict=True))
        }
        self.assigned, self.writes = {}, collections.Counter()
        super().__init__([*zip(variables, values, strict=True), *others], collect_losses=True)

    def add_update(self, update):
        variable, value = update
        self.writes[id(variable)] += 1
        if id(variable) in self.before:
            number, before = self.before[id(variable)]
            self.assigned[number] = value = ops.stop_gradient(value)
            value = value + (before - ops.stop_gradient(before))
        super().add_update((variable, value))


def graph_of(model):
    """The graph of layers of a Functional or Sequential model, or `None`.

    Exact types: a subclass may have a `call` of its own around the graph.
    """
    graph = model._functional if type(model) is keras.Sequential else model
    return graph if type(graph).__name__ == "Functional" else None


def graph_that_runs(model):
    """The graph that a call of the model, or of its subclass, runs; `None` if there is none."""
    if isinstance(model, keras.Sequential):
        own, inner = keras.Sequential.call, model._functional
    else:
        own, inner = Functional.call, model
    return inner if isinstance(inner, Functional) and type(model).call is own else None


def run_graph(graph, inputs, operation_of):
    """The graph's outputs, with `operation_of(operation)` called in place of each operation."""
    return graph._run_through_graph(inputs, operation_fn=operation_of)


def producer(tensor):
    """The operation that a symbolic tensor is the output of."""
    return tensor._keras_history.operation


def calls_in(graph) -> list[tuple]:
    """(operation, input tensors, output tensors) of each call in a graph, in order."""
    depths = sorted(graph._nodes_by_depth, reverse=True)
    nodes = (node for depth in depths for node in graph._nodes_by_depth[depth])
    return [
        (node.operation, list(node.input_tensors), list(node.outputs))
        for node in nodes
        if not node.is_input
    ]


@contextlib.contextmanager
def replacing_variables(layer, variables):
    """Within it the built layer may add variables in place of these."""
    for variable in variables:
        layer._untrack_variable(variable)
    layer._tracker.unlock()  # as Keras itself does where it replaces variables
    try:
        yield
    finally:
        layer._tracker.lock()


class TooLarge(Exception):
    """More numbers than a model may have."""


class _Pending(list):
    """Variables that wait for their values, of so many numbers at most."""

    def __init__(self, most):
        super().__init__()
        self.left = most

    def append(self, variable):
        self.left -= math.prod(variable.shape)
        if self.left < 0:
            raise TooLarge
        super().append(variable)


@contextlib.contextmanager
def without_values(most=math.inf):
    """Within it variables are made that never get a value.

    Raises:
        TooLarge: they would have more than so many numbers.
    """
    pending = "uninitialized_variables"
    before = list(global_state.get_global_attribute(pending, []))
    try:
        global_state.set_global_attribute(pending, _Pending(most))
        # In this scope Keras notes variables down; left to itself, it would make them later.
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute(pending, before)
