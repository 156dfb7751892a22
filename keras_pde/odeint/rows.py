"""Whether y0 is one system or a batch of examples, each of which has a clock of its own."""

import keras
import numpy as np
from keras import ops, tree

from keras_pde import compiled


def as_tensors(y0):
    """The nesting with tensors; a list of numbers is a vector, one of such lists a matrix."""
    if isinstance(y0, list | tuple) and y0 and _are_numbers(y0):
        return ops.convert_to_tensor(np.asarray(y0), keras.config.floatx())
    return tree.map_structure(ops.convert_to_tensor, y0)


def _are_numbers(y0):
    if isinstance(y0, list | tuple):
        return all(map(_are_numbers, y0))
    return isinstance(y0, int | float)


def is_one(y0, batched) -> bool:
    """Whether y0 is one system: as `batched` says, or if it is scalars and vectors only."""
    if batched is None:
        return all(len(leaf.shape) < 2 for leaf in tree.flatten(y0))
    if not isinstance(batched, bool):
        raise ValueError(f"Received batched={batched!r}; expected True, False or None.")
    return not batched


def of_one(func):
    """The field of one system, as that of a batch of one example; its time is a scalar."""

    def field(t, y):
        slopes = func(t[(0,) * len(t.shape)], tree.map_structure(lambda leaf: leaf[0], y))
        return tree.map_structure(lambda leaf: ops.convert_to_tensor(leaf)[None], slopes)

    return field


def check_apart(func, y0, times):
    """Refuses a field in which rows of y0 act on each other, where that can be seen.

    It is called on y0, and with every second row changed, at the first time and halfway, outside of
    compiled code.

    Raises:
        ValueError: slopes of other rows have changed.
    """
    leaves = tree.flatten(y0)
    known = [compiled.known(leaf) for leaf in leaves]
    if any(leaf is None for leaf in known) or leaves[0].shape[0] < 2:
        return
    rank = max(len(leaf.shape) for leaf in leaves)

    def slopes(leaves, start):
        t = ops.reshape(start, (-1,) + (1,) * (rank - 1))
        t = t + ops.zeros((leaves[0].shape[0],) + (1,) * (rank - 1), start.dtype)
        tensors = map(ops.convert_to_tensor, leaves)
        found = func(t, tree.pack_sequence_as(y0, list(tensors)))
        return [np.asarray(ops.convert_to_numpy(s), "float64") for s in tree.flatten(found)]

    def acts(start, first):
        others = slice(1 - first, None, 2)
        changed = [leaf.copy() for leaf in known]
        for leaf in changed:
            leaf[first::2] = (1.25 * leaf[first::2] + 0.125).astype(leaf.dtype)
        once, twice, moved = (slopes(values, start) for values in (known, known, changed))
        if [s.shape for s in once] != [leaf.shape for leaf in known]:
            return False
        once, twice, moved = ([s[others] for s in found] for found in (once, twice, moved))
        # Where func is random, or has left its domain, nothing can be said.
        finite = all(np.isfinite(s).all() for s in (*once, *moved))
        return finite and _equal(once, twice) and not _equal(once, moved)

    middle = (times[0] + times[-1]) / 2
    try:
        found = any(acts(t, first) for t in (times[0], middle) for first in (0, 1))
    except Exception:  # the solver says what is wrong with func
        return
    if found:
        raise ValueError(
            "Received a func in which rows of y0 act on each other: with other values in some "
            "rows, slopes of the others change. With adaptive steps each row is an example with a "
            "clock of its own; expected batched=False, for one system with one clock, or a func "
            "that treats each row by itself."
        )


def _equal(one, other):
    return all(
        a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-6 * (1 + np.abs(a).max()))
        for a, b in zip(one, other, strict=True)
    )
