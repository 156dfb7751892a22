"""What is kept of the steps while they are made: each recorder has a part of the loop's carry."""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_pde.autodiff import vjp
from keras_pde.compiled import repeat


class Step(NamedTuple):
    """One attempted step of all examples: tensors `(batch, 1)`, rows `(batch, D)`.

    Attributes:
        t, after, h: beginning, end and length.
        y, new: rows at its beginning and end.
        accepted: whether it counts.
        polynomial: coefficients `(4, batch, D)` of x, ..., x^4 of y(t + x h) - y.
    """

    t: Any
    after: Any
    h: Any
    y: Any
    new: Any
    accepted: Any
    polynomial: Any


def between(y, polynomial, x):
    """y(t + x h), from coefficients of x, x^2, ... along the first axis."""
    value = 0.0
    for power in reversed(range(polynomial.shape[0])):
        value = x * (polynomial[power] + value)
    return y + value


class AtTimes:
    """Rows at given times `(T, batch, 1)` or `(T, 1, 1)`; NaN at those that are not reached."""

    def __init__(self, times):
        self.times = times

    def start(self, y, most):
        return ops.zeros_like(y)[None] + ops.zeros_like(self.times) + np.nan

    def add(self, kept, step):
        passed = step.accepted & (self.times > step.t) & (self.times <= step.after)
        x = ops.where(passed, (self.times - step.t) / ops.where(passed, step.h, 1.0), 0.0)
        return ops.where(passed, between(step.y, step.polynomial, x), kept)


class AllSteps:
    """All steps, for a solution at any time: `(n, t, h, y, polynomial)`, `most` rows each."""

    def start(self, y, most):
        one, rows = ops.zeros((most, *y.shape[-1:]), y.dtype)[:, None], ops.zeros_like(y)[None]
        rows = rows + one
        column = rows[..., :1]
        powers = ops.zeros_like(rows)[:, None] + ops.zeros((4, 1, 1), y.dtype)
        return ops.zeros((), "int32"), column, column, rows, powers

    def add(self, kept, step):
        n, *buffers = kept
        length = ops.where(step.accepted, step.h, 0.0)
        values = (step.t, length, step.y, step.polynomial)
        at = ops.reshape(n, (1, 1))
        filled = [ops.scatter_update(b, at, v[None]) for b, v in zip(buffers, values, strict=True)]
        return n + 1, *filled


class Crossings:
    """Steps within which a function of time and rows changes its sign: the first ones.

    Args:
        event: `event(t, rows)`, `(batch, 1)`.
        direction: 1 for those from below 0, -1 for those from above, 0 for both.
        most: how many an example keeps.
    """

    def __init__(self, event, direction, most):
        self.event, self.direction, self.most = event, direction, most

    def start(self, y, most):
        t = ops.zeros_like(y[:, :1])
        value = ops.stop_gradient(self.event(t, y))
        # Where there is no event, the beginning stands, at which the function has a value.
        slots = ops.zeros((self.most, 1, 1), y.dtype)
        powers = ops.zeros_like(y)[None, None] + slots[:, None] + ops.zeros((4, 1, 1), y.dtype)
        return ops.cast(t, "int32"), value, value + slots, t + slots, t + slots, y + slots, powers

    def add(self, kept, step):
        count, before, *slots = kept
        after = ops.stop_gradient(self.event(step.after, step.new))
        rises, falls = (before < 0) & (after >= 0), (before > 0) & (after <= 0)
        crosses = {1: rises, -1: falls, 0: rises | falls}[self.direction] & step.accepted
        chosen = crosses & (count == ops.arange(self.most, dtype="int32")[:, None, None])
        values = (before, step.t, step.h, step.y, step.polynomial)
        wide = (chosen,) * 4 + (chosen[:, None],)
        slots = [
            ops.where(where, value[None], slot)
            for where, value, slot in zip(wide, values, slots, strict=True)
        ]
        before = ops.where(step.accepted, after, before)
        return count + ops.cast(crosses, "int32"), before, *slots

    def crossed(self, kept):
        """Of a terminal event: the examples that have met it, `(batch, 1)`."""
        return kept[0] > 0

    def found(self, kept):
        """`(times, rows, count)`, `(most, batch, 1)` and `(most, batch, D)`; NaN where none is.

        The roots of the function on the polynomial of each step, by bisection, at the side from
        which it comes. Their derivatives are those of implicit functions.
        """
        count, _, *slots = kept
        t, y = ops.map(lambda slot: self._root(*slot), tuple(slots))
        exists = ops.arange(self.most, dtype="int32")[:, None, None] < count
        return ops.where(exists, t, np.nan), ops.where(exists, y, np.nan), count

    def _root(self, before, t, h, y, polynomial):
        fixed = [ops.stop_gradient(value) for value in (t, h, y, polynomial)]

        def narrowed(n, low, high):
            start, length, state, powers = fixed
            middle = (low + high) / 2
            value = self.event(start + middle * length, between(state, powers, middle))
            below = ops.sign(before) == ops.sign(ops.stop_gradient(value))
            return ops.where(below, middle, low), ops.where(below, high, middle)

        x = ops.zeros_like(t)
        bits = np.finfo(keras.backend.standardize_dtype(t.dtype)).nmant + 1
        x = ops.stop_gradient(repeat(narrowed, (x, x + 1), bits)[0])
        # Two steps of Newton's method, of value 0 but for rounding: their first and second
        # derivatives are those of the root.
        for _ in range(2):
            x = x + self._correction(t, h, y, polynomial, x)
        return t + x * h, between(y, polynomial, x)

    def _correction(self, t, h, y, polynomial, x):
        at, state = t + x * h, between(y, polynomial, x)
        value, (by_time, by_state) = vjp(
            lambda point: self.event(*point), (at, state), ops.ones_like(at)
        )
        rate = by_time * h + ops.sum(by_state * _speed(polynomial, x), axis=-1, keepdims=True)
        known = rate != 0
        step = ops.where(known, (ops.stop_gradient(value) - value) / ops.where(known, rate, 1.0), 0)
        return step


def _speed(polynomial, x):
    """The derivative in x of `between`."""
    value = 0.0
    for power in reversed(range(polynomial.shape[0])):
        value = (power + 1) * polynomial[power] + x * value
    return value
