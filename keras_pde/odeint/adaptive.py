from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_pde import compiled
from keras_pde.odeint.control import Controller
from keras_pde.odeint.recorders import AllSteps, AtTimes, Crossings, Step
from keras_pde.odeint.statistics import EVENT, MAX_STEPS, REACHED, UNDERFLOW, Statistics


def solve(method, field, y, times, start, rtol, atol, max_steps, memory, dense=False, event=None):
    """Rows at all times `(T, batch, D)`, with steps that each example chooses for itself.

    In one loop over all examples, in which those that have arrived stay where they are. Times
    between two steps are interpolated; those that an example does not reach are NaN.

    Args:
        method: what makes a step: `Explicit` or `Implicit`.
        start: the first time, of which a step must not be a rounding error.
        dense: whether all steps are kept.
        event: None, or `(function, direction, most, terminal)` of `recorders.Crossings`.

    Returns:
        A `Result`.
    """
    control = Controller(method.order, rtol, atol)
    end = times[-1]
    arrival = ops.stop_gradient(end)
    rounding = 10 * float(np.finfo(keras.backend.standardize_dtype(y.dtype)).eps)
    inner = times[1:-1] if len(times.shape) > 1 else times[1:-1, None, None]
    stops, recorders = ops.stop_gradient(inner), {}
    if inner.shape[0]:
        recorders["times"] = AtTimes(inner)
    if dense:
        recorders["steps"] = AllSteps()
    if event:
        *crossing, terminal = event
        recorders["event"] = Crossings(*crossing)

    @compiled.remembered(memory)
    def advance(t, y, slope, h):
        new, error, usable, *parts = method.attempt(field, t, y, slope, h)
        error = control.norm(error, y, new)
        return new, ops.where(usable, error, np.inf), *parts

    def active(*carry):
        return ops.any(carry[-3] == MAX_STEPS)

    def body(t, y, slope, h, before, growth, kept, status, accepted, rejected):
        running = status == MAX_STEPS
        target = arrival
        if method.stops and inner.shape[0]:
            target = ops.min(ops.where(stops > t, stops, arrival), axis=0)
        left = target - ops.stop_gradient(t)
        # A last step of next to nothing is avoided.
        meets = running & (1.01 * h >= left)
        arrives = meets & (target == arrival)
        h = ops.where(running, ops.where(meets, left, h), 0.0)
        after = ops.where(meets, target, t + h)
        new, error, *parts = advance(t, y, slope, h)
        accept = running & (error <= 1)
        if recorders:
            step = Step(t, after, h, y, new, accept, method.polynomial(y, new, h, *parts))
            kept = {name: recorders[name].add(part, step) for name, part in kept.items()}
        rejected = rejected + ops.cast(running & ~accept, "int32")
        accepted = accepted + ops.cast(accept, "int32")
        status = ops.where(accept & arrives, REACHED, status)
        if event and terminal:
            status = ops.where(running & recorders["event"].crossed(kept["event"]), EVENT, status)
        t, y = ops.where(accept, after, t), ops.where(accept, new, y)
        slope = ops.where(accept, parts[-1], slope)
        h, before, growth = control.next(h, error, accept, before, growth)
        least = rounding * (ops.abs(start) + ops.stop_gradient(t))
        status = ops.where(running & ~accept & (h <= least), UNDERFLOW, status)
        return t, y, slope, h, before, growth, kept, status, accepted, rejected

    t = ops.zeros_like(y[:, :1])
    count = ops.cast(t, "int32")
    slope = field(t, y)
    h = control.first(field, y, slope, arrival)
    before, growth = (t + value for value in control.start)
    kept = {name: recorder.start(y, max_steps) for name, recorder in recorders.items()}
    # An example that is still on its way after the loop has needed too many steps.
    carry = (t, y, slope, h, before, growth, kept, count + MAX_STEPS, count, count)
    carry = compiled.repeat_while(active, body, carry, max_steps)
    t, last, slope, *_, kept, status, accepted, rejected = carry
    # A step of length 0, but of the first and second derivatives that the solution has with regard
    # to its end.
    arrived = t >= arrival
    rest = ops.where(arrived, end - t, 0.0)
    last = last + rest * field(t + rest / 2, last + rest / 2 * slope)
    last = ops.where(arrived, last, np.nan)
    between = [kept["times"]] if "times" in kept else []
    rows = ops.concatenate([y[None], *between, last[None]], axis=0)
    found = None
    if event:
        found = recorders["event"].found(kept["event"])
        if terminal:
            within = times if len(times.shape) > 1 else times[:, None, None]
            slack = rounding * (ops.abs(start) + ops.abs(within))
            past = (status == EVENT) & (within > found[0] + slack)
            rows = ops.where(past, np.nan, rows)
    evaluations = 3 + method.evaluations * (accepted + rejected)
    counts = (evaluations, accepted, rejected, status)
    statistics = Statistics(*(count[:, 0] for count in counts))
    if event and terminal:
        t = ops.where(status == EVENT, found[0][0], t)
    return Result(rows, statistics, t[:, 0], found, kept.get("steps"))


class Result(NamedTuple):
    """Rows `(T, batch, D)`, statistics, the time that each example has reached, its events as
    `Crossings` finds them, and its steps as `AllSteps` keeps them."""

    rows: Any
    statistics: Statistics
    reached: Any
    events: Any
    steps: Any
