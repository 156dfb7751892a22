"""What `odeint` returns beside the solution at the times."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops, tree

from keras_pde import compiled
from keras_pde.odeint.recorders import between


class Events(NamedTuple):
    """Where the event function is 0.

    Attributes:
        t: times; of a terminal event `(batch,)`, else `(max_events, batch)` in the order in which
            they are met. NaN where there is none.
        y: the solution there, in the nesting of y0, with the axes of t in front.
        count: how many events each example has met, int32 `(batch,)`. More than `max_events` are
            counted, not kept.
    """

    t: Any
    y: Any
    count: Any


class DenseSolution:
    """The solution as a function of time, from the polynomial of each step.

    `solution(t)`: t a scalar or `(T,)`, for `(batch, ...)` or `(T, batch, ...)` in the nesting of
    y0. Differentiable in all that the steps depend on, and in t.

    Raises:
        ValueError: t is out of the span. Compiled code cannot raise: there, and where an example
            has not arrived, it is NaN.
    """

    def __init__(self, steps, reached, start, sign, unpack):
        self._count, *self._steps = steps
        self._reached, self._start, self._sign, self._unpack = reached, start, sign, unpack

    def __call__(self, t: Any) -> Any:
        """The solution at a time or at times."""
        t = ops.cast(ops.convert_to_tensor(t), self._steps[0].dtype)
        if len(t.shape) > 1:
            raise ValueError(f"Received t of shape {tuple(t.shape)}; expected a scalar or (T,).")
        elapsed = self._sign * (ops.reshape(t, (-1, 1, 1)) - self._start)
        # What is only rounding is not out of the span.
        slack = 1e-5 * self._reached
        inside = (elapsed >= -slack) & (elapsed <= self._reached + slack)
        known = compiled.known(inside)
        if known is not None and not known.any(axis=(1, 2)).all():
            raise ValueError(
                f"Received t={np.asarray(compiled.known(t)).tolist()}; expected times within those "
                "of odeint."
            )
        value = self._at(elapsed)
        value = self._unpack(ops.where(inside, value, np.nan))
        return value if len(t.shape) else tree.map_structure(lambda leaf: leaf[0], value)

    def _at(self, elapsed):
        starts, lengths, rows, powers = self._steps
        made = lengths > 0
        number = ops.arange(lengths.shape[0], dtype="int32")[:, None, None]
        # The last of those that have begun: (T, batch, 1).
        begun = made[None] & (starts[None] <= ops.maximum(elapsed, 0.0)[:, None])
        step = ops.max(ops.where(begun, number[None], 0), axis=1)

        def taken(buffer):
            return ops.take_along_axis(buffer, ops.broadcast_to(step, _wide(step, buffer)), axis=0)

        length = taken(lengths)
        x = (elapsed - taken(starts)) / ops.where(length > 0, length, 1.0)
        powers = ops.stack([taken(powers[:, p]) for p in range(powers.shape[1])])
        return between(taken(rows), powers, x)


def _wide(step, buffer):
    return (*ops.shape(step)[:2], buffer.shape[-1])
