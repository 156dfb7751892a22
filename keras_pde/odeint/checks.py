"""What is refused, before and after."""

import math

import numpy as np
from keras import ops

from keras_pde import compiled
from keras_pde.checks import check_count, check_flag, check_number
from keras_pde.odeint.statistics import EVENT, MAX_STEPS, REACHED
from keras_pde.registry import unknown_name

_MEMORY = ("store", "remat")
_ROUNDING = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def times(t, dtype):
    """The times as a tensor, and as an array where they are known.

    Raises:
        ValueError: there are not two or more, or they are neither increasing nor decreasing.
    """
    values = compiled.known(t)
    t = ops.cast(ops.convert_to_tensor(t), dtype)
    if len(t.shape) not in (1, 2) or t.shape[0] is None or t.shape[0] < 2:
        raise ValueError(
            f"Received t of shape {tuple(t.shape)}; expected (T,) or (T, batch), a known number of "
            "times, at least two: the first is that of y0."
        )
    if values is None:
        lengths = t[1:] - t[:-1]
        monotonic = ops.all(lengths > 0, axis=0) | ops.all(lengths < 0, axis=0)
        return ops.where(monotonic, t, math.nan), None
    values = values.astype(dtype)
    lengths = np.diff(values, axis=0)
    monotonic = (lengths > 0).all(axis=0) | (lengths < 0).all(axis=0)
    if not np.isfinite(values).all() or not monotonic.all():
        raise ValueError(
            f"Received t={values.tolist()} (in {dtype}); expected finite times, all increasing or "
            "all decreasing. Sort them, and drop those that are equal."
        )
    return t, values


def for_rows(times, state, one):
    """Times that broadcast to the rows: scalars, or `(batch, 1)` each."""
    if len(times.shape) == 1:
        return times
    batches = {times.shape[1], state.rows.shape[0]} - {None}
    if one or len(batches) > 1:
        expected = "(T,) of one system" if one else f"(T, {state.rows.shape[0]})"
        raise ValueError(f"Received t of shape {tuple(times.shape)}; expected {expected}.")
    return times[..., None]


def step_counts(values, intervals, steps, step_size):
    """The number of steps between each time and the next."""
    if steps is not None:
        return [check_count(steps, "steps")] * intervals
    check_number(step_size, "step_size", above=0)
    if values is None:
        raise ValueError(
            "Received step_size= with times that are not known while the code is compiled; "
            "expected steps=, or t as a NumPy array."
        )
    # Without a step for what is rounding.
    lengths = np.abs(np.diff(values, axis=0)).reshape(len(values) - 1, -1).max(axis=1)
    return [max(math.ceil(d / step_size * (1 - 1e-6)), 1) for d in lengths]


def tolerances(rtol, atol, max_steps, dtypes):
    least = max(_ROUNDING[dtype] for dtype in dtypes)
    if not least <= rtol < math.inf or not 0 < atol < math.inf:
        raise ValueError(
            f"Received rtol={rtol!r} and atol={atol!r} for y0 of type {', '.join(set(dtypes))}; "
            f"expected rtol of at least {least:.2g}, below which errors are rounding, and atol "
            "above 0. Use y0 in higher precision, or equal steps: steps=."
        )
    check_count(max_steps, "max_steps")


def memory(mode):
    if mode not in _MEMORY:
        raise unknown_name("memory mode", mode, _MEMORY)
    if mode == "remat" and compiled.BACKEND == "tensorflow":
        raise ValueError(
            "Received memory='remat' on TensorFlow, which cannot compute again what func closes "
            "over; expected memory='store'. `layers.ContinuousBlock` can save memory there."
        )


def event(event_fn, terminal, direction, max_events, dense, adapts):
    """How many events an example keeps; a `ValueError` if they cannot be found."""
    check_flag(dense, "dense")
    if (dense or event_fn is not None) and not adapts:
        raise ValueError(
            "Received event_fn= or dense= with equal steps, steps= or step_size=, between which "
            "there is no polynomial; expected adaptive ones: rtol and atol."
        )
    if event_fn is None:
        return 0
    if not callable(event_fn):
        raise ValueError(
            f"Received event_fn={event_fn!r}; expected a function of t and y that returns one "
            "number an example."
        )
    if direction not in (-1, 0, 1) or isinstance(direction, bool):
        raise ValueError(f"Received direction={direction!r}; expected -1, 0 or 1.")
    check_count(max_events, "max_events")
    return 1 if check_flag(terminal, "terminal") else max_events


def arrival(statistics, reached, times, max_steps):
    """Refuses a solution some of whose examples are not complete, where that is known."""
    status = compiled.known(statistics.status)
    if status is None:
        return
    failed = np.flatnonzero((status != REACHED) & (status != EVENT))
    if not failed.size:
        return
    ends, reached = np.ravel(compiled.known(times)[-1]), compiled.known(reached)
    reached = np.broadcast_to(np.ravel(reached), status.shape)
    end = ends[failed[0]] if len(ends) > 1 else ends[0]
    shown = [f"{i} (at t = {reached[i]:.6g})" for i in failed[:5]]
    if (status[failed] == MAX_STEPS).any():
        cause, fix = f"needs more than max_steps={max_steps} steps", "raise max_steps"
    else:
        cause = "needs steps that its time cannot resolve"
        fix = "look for NaN and poles of func there, or use float64"
    raise ValueError(
        f"Received a problem of which {len(failed)} of {len(status)} examples do not arrive at "
        f"t = {end:.6g}: {', '.join(shown)}{', ...' * (len(failed) > 5)}. One {cause}; expected "
        f"func to be smooth, and method='rodas5p' if it is stiff. Either {fix}, loosen rtol and "
        "atol, or make equal steps: steps=."
    )
