"""Eigenvalues of a continuous block's equation, linearised where data go."""

import math

import numpy as np
from keras import ops, tree

from keras_pde.autodiff import jacobian
from keras_pde.calls import in_place_of
from keras_pde.layers.continuous.sweep import Sweep

_EXAMPLES = 8
_MOST = 1024  # entries of a state, of which the eigenvalues take a second


def spectrum_on(model, block, x):
    """The Jacobian's eigenvalues at the states that the block passes through, in inference mode.

    Args:
        model: model that holds the block, or the block itself.
        block: `ContinuousBlock` of one field.
        x: inputs of the model, of which the first 8 are used.

    Returns:
        A complex NumPy array.

    Raises:
        ValueError: a state has more than 1,024 entries, or the block is not called.
    """
    found = []

    def noted(call, y, *args, **kwargs):
        found.append((y, kwargs.get("mask")))
        return call(y, *args, **kwargs)

    few = tree.map_structure(lambda array: ops.convert_to_tensor(array[:_EXAMPLES]), x)
    with in_place_of(block, noted):
        model(few, training=False)
    if not found:
        raise ValueError(f"Received {block.name!r}, which the model does not call.")
    eigenvalues = []
    for y, mask in found:
        size = math.prod(y.shape[1:])
        if size > _MOST:
            raise ValueError(
                f"Received {block.name!r} with states of {size} entries; expected at most {_MOST}, "
                "of which eigenvalues are found: pass smaller inputs, if the rate takes them."
            )
        eigenvalues += _along(block, y, mask, size)
    return np.concatenate(eigenvalues).astype("complex128")


def _along(block, y, mask, size):
    sweep = Sweep(block, True, False, mask)
    state, _, first = sweep.start(ops.cast(y, "float32"))
    shape = (-1, *y.shape[1:])
    for n in range(first, block.steps):

        def rate(flat, n=n):
            field = sweep.field(n, sweep.weights, sweep.log())
            return ops.reshape(field(0, ops.reshape(flat, shape)), (-1, size))

        matrices = jacobian(rate, ops.reshape(state[0], (-1, size)))[1]
        yield np.linalg.eigvals(ops.convert_to_numpy(matrices)).ravel()
        state, _ = sweep.step(n, state, sweep.weights)
