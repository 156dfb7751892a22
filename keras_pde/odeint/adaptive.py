import keras
import numpy as np
from keras import ops

from keras_pde import compiled
from keras_pde.integrators import RungeKutta
from keras_pde.integrators.runge_kutta import moved
from keras_pde.odeint import dense
from keras_pde.odeint.control import Controller
from keras_pde.odeint.statistics import MAX_STEPS, REACHED, UNDERFLOW, Statistics


def solve(scheme, field, y, times, start, rtol, atol, max_steps, memory):
    """Rows at all times `(T, batch, D)`, with steps that each example chooses for itself.

    In one loop over all examples, in which those that have arrived stay where they are. Times
    between two steps are interpolated; those that an example does not reach are NaN.

    Args:
        start: the first time, of which a step must not be a rounding error.

    Returns:
        `(rows, statistics, elapsed)`, the last with the time that each example has reached.
    """
    scheme = _ending_in_slope(scheme)
    nodes = [float(node) for node in scheme.nodes]
    estimate = [b - lower for b, lower in zip(scheme.b, scheme.lower, strict=True)]
    control = Controller(scheme.order, rtol, atol)
    w1, w2, w3, w4 = (ops.convert_to_tensor(row, y.dtype) for row in dense.weights(scheme))
    each = len(times.shape) > 1  # times of its own, (T, batch, 1)
    inner, end = times[1:-1] if each else times[1:-1, None, None], times[-1]
    arrival = ops.stop_gradient(end)
    rounding = 10 * float(np.finfo(keras.backend.standardize_dtype(y.dtype)).eps)

    @compiled.remembered(memory)
    def advance(t, y, slope, h):
        usable = []

        def stage(i, at):
            if i == 0:
                return slope
            k = field(t + nodes[i] * h, at)
            usable.append(ops.all(ops.isfinite(k), axis=-1, keepdims=True))
            # Such a step is rejected; but the gradient of later stages must not meet its NaN.
            return ops.where(usable[-1], k, 0.0)

        new, slopes = scheme.slopes(stage, y, h)
        error = control.norm(moved(0.0, estimate, slopes, h), y, new)
        usable = ops.all(ops.concatenate(usable, axis=-1), axis=-1, keepdims=True)
        return new, ops.where(usable, error, np.inf), *slopes

    def active(*carry):
        return ops.any(carry[-3] == MAX_STEPS)

    def body(t, y, slope, h, before, growth, kept, status, accepted, rejected):
        running = status == MAX_STEPS
        left = arrival - ops.stop_gradient(t)
        # A last step of next to nothing is avoided.
        arrives = running & (1.01 * h >= left)
        h = ops.where(running, ops.where(arrives, left, h), 0.0)
        new, error, *slopes = advance(t, y, slope, h)
        accept = running & (error <= 1)
        if inner.shape[0]:
            passed = accept & (inner > t) & (arrives | (inner <= t + h))
            x = ops.where(passed, (inner - t) / ops.where(passed, h, 1.0), 0.0)
            weights = x * (w1 + x * (w2 + x * (w3 + x * w4)))
            between = y + h * ops.einsum("tbs,bsd->tbd", weights, ops.stack(slopes, axis=1))
            kept = ops.where(passed, between, kept)
        rejected = rejected + ops.cast(running & ~accept, "int32")
        accepted = accepted + ops.cast(accept, "int32")
        status = ops.where(accept & arrives, REACHED, status)
        t, y = ops.where(accept, t + h, t), ops.where(accept, new, y)
        slope = ops.where(accept, slopes[-1], slope)
        h, before, growth = control.next(h, error, accept, before, growth)
        least = rounding * (ops.abs(start) + ops.stop_gradient(t))
        status = ops.where(running & ~accept & (h <= least), UNDERFLOW, status)
        return t, y, slope, h, before, growth, kept, status, accepted, rejected

    t = ops.zeros_like(y[:, :1])
    count = ops.cast(t, "int32")
    slope = field(t, y)
    h = control.first(field, y, slope, arrival)
    before, growth = (t + value for value in control.start)
    kept = ops.zeros_like(y)[None] + ops.zeros_like(inner) + np.nan
    # An example that is still on its way after the loop has needed too many steps.
    carry = (t, y, slope, h, before, growth, kept, count + MAX_STEPS, count, count)
    carry = compiled.repeat_while(active, body, carry, max_steps)
    t, last, slope, *_, kept, status, accepted, rejected = carry
    # Of value 0, but of the derivative that the solution has with regard to its end.
    last = ops.where(status == REACHED, last + (end - t) * slope, np.nan)
    rows = ops.concatenate([y[None], kept, last[None]], axis=0)
    evaluations = 2 + (scheme.stages - 1) * (accepted + rejected)
    counts = (evaluations, accepted, rejected, status)
    return rows, Statistics(*(count[:, 0] for count in counts)), t[:, 0]


def _ending_in_slope(scheme):
    """The scheme, whose last stage is the first of the next step: one is added if there is none."""
    if scheme.a[-1] == scheme.b[:-1]:
        return scheme
    return RungeKutta(
        scheme.name, scheme.order, [*scheme.a, scheme.b], [*scheme.b, 0], [*scheme.lower, 0]
    )
