"""The one room for what is private in Keras: each name with what we take it to do.

`tests/unit/test_keras_names.py` has a canary for each, which says what a new Keras has changed; and
sees to it that no other file uses such a name.
"""

import collections
import contextlib
import math

import keras
from keras import ops
from keras.src.backend.common import global_state
from keras.src.models.functional import Functional

# Layers and graphs


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


# Trainers


def replace_optimizer(model, optimizer):
    """Gives a compiled model another optimizer, which `save` writes too."""
    model.optimizer = optimizer
    model._compile_config.config["optimizer"] = optimizer


@contextlib.contextmanager
def regularisers(model, losses):
    """Within it `compute_loss` adds these losses in place of those that the layers hold."""
    model._losses_override = list(losses)
    try:
        yield
    finally:
        model._losses_override = []


def as_added(model, loss):
    """What `compute_loss` adds for one of them."""
    return model._aggregate_additional_loss(loss)


def track_loss(model, loss, count):
    """Updates the metric "loss" of a `train_step` on TensorFlow, for so many examples."""
    model._loss_tracker.update_state(loss, sample_weight=count)


def put_back(model, state):
    """On JAX, within `train_function`: what `fit` puts back into the variables if it is left."""
    kinds = ("trainable", "non_trainable", "optimizer", "metrics")
    pairs = zip(kinds, state, strict=True)
    model._jax_state = {f"{kind}_variables": values for kind, values in pairs}


# Optimizers


def trained_by(optimizer) -> list:
    """The variables that an optimizer was built for, in the order of its slots."""
    return optimizer._trainable_variables


def place(optimizer, variable) -> int:
    """The number of a variable among them."""
    return optimizer._get_variable_index(variable)


def create_state(model, x, y):
    """Creates optimizer's and metrics' variables, which the first step would create otherwise.

    Of arrays alone; what cannot be called with symbols is left to that step.
    """
    if not all(hasattr(a, "dtype") and hasattr(a, "shape") and len(a.shape) for a in (x, y)):
        return
    # The step casts images that are integers, too.
    kind = keras.backend.standardize_dtype(x.dtype)
    kind = kind if "float" in kind else model.compute_dtype
    images = keras.KerasTensor((None, *x.shape[1:]), kind)
    labels = keras.KerasTensor((None, *y.shape[1:]), keras.backend.standardize_dtype(y.dtype))
    with contextlib.suppress(Exception):
        model._symbolic_build(data_batch=(images, labels, None))


def batches_of(optimizer):
    """The variable that counts the batches."""
    return optimizer._iterations


def own_variables(optimizer) -> list:
    """An optimizer's variables, without those of one inside."""
    return optimizer._variables


def holds_values(optimizer) -> bool:
    """Whether it is built; on JAX an error within `fit` leaves variables without values."""
    return optimizer.built and optimizer._iterations._value is not None


def moving_averages(optimizer) -> list:
    """The slots of `use_ema`, with `None` for a variable that is overwritten with gradients."""
    return optimizer._model_variables_moving_average


def decays(optimizer, variable) -> bool:
    """Whether `weight_decay` is about this variable."""
    if not optimizer.built and hasattr(optimizer, "_is_excluded_from_weight_decay"):  # Keras 3.16
        return not optimizer._is_excluded_from_weight_decay(variable)
    return optimizer._use_weight_decay(variable)


def leave_undecayed(optimizer, variables):
    """Excludes these variables from weight decay, of an optimizer that may be built already."""
    keys = {optimizer._var_key(v) for v in variables}
    optimizer._exclude_from_weight_decay = keys
    optimizer._exclude_from_weight_decay_cache = {}
    if hasattr(optimizer, "_weight_decay_by_var_key"):  # Keras 3.16, once it is built
        optimizer._weight_decay_by_var_key.update(dict.fromkeys(keys, False))


def summed_over_replicas(optimizer, pairs) -> list:
    """(gradient, variable) with gradients summed, on TensorFlow."""
    return optimizer._all_reduce_sum_gradients(pairs)


def strategy_of(optimizer):
    """The `tf.distribute` strategy that it was made under."""
    return optimizer._distribution_strategy


# Lists with one entry a variable, and what the entries are made of.
SLOT_KINDS = {
    "momentums": "gradients",
    "_momentums": "gradients",
    "_accumulated_gradients": "gradients",
    "_m": "gradients",
    "_velocities": "squares",
    "_velocity_hats": "squares",
    "_accumulators": "squares",
    "_model_variables_moving_average": "weights",
}
_NO_SLOTS = ("_variables", "_trainable_variables")


def slots_of(optimizer) -> dict[str, list]:
    """Attribute -> list of variables, one a trained variable."""
    count = len(optimizer._trainable_variables)
    return {
        name: entries
        for name, entries in vars(optimizer).items()
        if name not in _NO_SLOTS
        and isinstance(entries, list)
        and len(entries) == count
        and all(isinstance(entry, keras.Variable) for entry in entries)
    }


class Optimizer(keras.optimizers.Optimizer):
    """Keras' base class with names for what its subclasses use and take over."""

    @property
    def trained(self) -> list:
        return trained_by(self)

    def place(self, variable) -> int:
        return place(self, variable)

    def decays(self, variable) -> bool:
        return decays(self, variable)

    def with_gradients(self, gradients, variables):
        """Leaves out the variables whose gradient is `None`."""
        return super()._filter_empty_gradients(gradients, variables)

    def clip_all(self, gradients):
        """Clips each replica's gradients, before they are summed."""
        return super()._clip_gradients(gradients)

    def update_averages(self, variables):
        """Updates the moving averages of `use_ema`, after the step."""
        super()._update_model_variables_moving_average(variables)

    def without_overwritten(self, gradients, variables):
        """Assigns gradients that take the variable's place (float8), and leaves those out."""
        return self._overwrite_variables_directly_with_gradients(gradients, variables)

    def decay_weights(self, variables):
        """Shrinks what `weight_decay` is about, before the step."""
        super()._apply_weight_decay(variables)

    def update_all(self, gradients, variables, learning_rate):
        """The step: `update_step` for each variable, where assignments are allowed."""
        super()._backend_update_step(gradients, variables, learning_rate)

    def _apply_weight_decay(self, variables):
        self.decay_weights(variables)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        self.update_all(grads, trainable_variables, learning_rate)

    def _filter_empty_gradients(self, grads, vars):
        return self.with_gradients(grads, vars)

    def _clip_gradients(self, grads):
        return self.clip_all(grads)

    def _update_model_variables_moving_average(self, trainable_variables):
        self.update_averages(trainable_variables)
