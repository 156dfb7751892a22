"""A solution from a symbolic Keras tensor: a layer of the functional model."""

import contextlib
import functools
import inspect
import types

import keras
from keras import ops, tree


def is_symbolic(y0) -> bool:
    """Whether a tensor of the nesting is one of a functional model."""
    return any(isinstance(leaf, keras.KerasTensor) for leaf in tree.flatten(y0))


def solution(solve, func, y0, *args, **settings):
    """`solve(func, y0, *args, **settings)` as an operation on the symbolic y0.

    Raises:
        ValueError: func uses weights that cannot be found, which the model would not train.
    """
    leaves = tree.flatten(y0)
    if is_symbolic((args, settings["args"])) or not all(map(is_symbolic, leaves)):
        raise ValueError(
            "Received symbolic times or arguments, or a y0 of which a part is not symbolic; "
            "expected y0 alone and whole: what else depends on the inputs goes into y0, or into a "
            "layer of your own that calls odeint."
        )
    if any(None in leaf.shape[1:] for leaf in leaves):
        shapes = [leaf.shape for leaf in leaves]
        raise ValueError(f"Received y0 of shapes {shapes}; expected all but the batch known.")
    used = _weights_of(func, y0, settings["args"])
    return Solution(solve, func, used, args, settings)(y0)


def _weights_of(func, y0, arguments):
    """The layers and variables that func reads."""
    y = tree.map_structure(lambda leaf: ops.zeros((1, *leaf.shape[1:]), leaf.dtype), y0)
    t = ops.zeros((1,) * max(len(leaf.shape) for leaf in tree.flatten(y)))
    with _Recorded() as scope, _watched() as others:
        func(t, y, *arguments)
    # What is named in a function, as an attribute is, may be something else.
    named = _named((func, *arguments))
    held = {id(entry): {id(v) for v in _variables(entry)} for entry in named}
    used = [entry for entry in named if held[id(entry)] & scope.read.keys()]
    known = set().union(*(held[id(entry)] for entry in used))
    unknown = [v.path for key, v in scope.read.items() if key not in known]
    inner = {id(v.value) for v in scope.read.values()}
    unknown += [v.name for v in others() if id(v) not in inner]
    if unknown:
        raise ValueError(
            f"Received a func that uses the weights {unknown}, on a symbolic tensor; expected one "
            "whose layers can be found in it or around it, so that the model trains them: use "
            "keras_pde.layers.NeuralODE, with the right-hand side as a layer."
        )
    return used


@contextlib.contextmanager
def _watched():
    """A function that returns the variables of TensorFlow's own that were read within."""
    if keras.backend.backend() != "tensorflow":
        yield lambda: []
        return
    import tensorflow as tf

    with tf.GradientTape() as tape:
        yield tape.watched_variables


def _variables(entry):
    return [entry] if isinstance(entry, keras.Variable) else entry.variables


class _Recorded(keras.StatelessScope):
    """Which variables are read within."""

    def __init__(self):
        super().__init__()
        self.read = {}

    def get_current_value(self, ref):
        self.read[id(ref)] = ref
        return super().get_current_value(ref)


class Solution(keras.layers.Layer):
    """Holds what the function uses, so that the model has it."""

    def __init__(self, solve, func, used, args, settings):
        super().__init__()
        self.inner = [entry for entry in used if isinstance(entry, keras.layers.Layer)]
        self.single = [entry for entry in used if isinstance(entry, keras.Variable)]
        self._call = functools.partial(_solved, solve, func, args, settings)

    def call(self, y0):
        return self._call(y0)

    def get_config(self):
        raise NotImplementedError(
            "Received a model with odeint of a function on a symbolic tensor, which cannot be "
            "written to a file; use keras_pde.layers.NeuralODE, with the right-hand side as a "
            "layer."
        )

    def compute_output_spec(self, y0):
        times = len(self._call.args[2][0])
        return tree.map_structure(
            lambda leaf: keras.KerasTensor((times, *leaf.shape), leaf.dtype), y0
        )


def _solved(solve, func, args, settings, y0):
    return solve(func, y0, *args, **settings)


def _named(value, depth=4, seen=None):
    """The layers and variables that a function, method or object holds, closes over, or names."""
    seen = {} if seen is None else seen
    if id(value) in seen or isinstance(value, type | types.ModuleType):
        return []
    seen[id(value)] = value
    if isinstance(value, keras.layers.Layer | keras.Variable):
        return [value]
    if not depth:
        return []
    inner = []
    if inspect.ismethod(value):
        inner = [value.__self__, value.__func__]
    elif inspect.isfunction(value):
        found = inspect.getclosurevars(value)
        inner = [*found.nonlocals.values(), *found.globals.values()]
        inner += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    elif isinstance(value, functools.partial):
        inner = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, dict):
        inner = value.values()
    elif isinstance(value, list | tuple):
        inner = value
    elif hasattr(value, "__dict__"):
        inner = vars(value).values()
    return [entry for part in inner for entry in _named(part, depth - 1, seen)]
