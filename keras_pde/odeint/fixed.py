import numpy as np
from keras import ops

from keras_pde import compiled
from keras_pde.odeint.statistics import REACHED, Statistics


def solve(scheme, field, y, times, counts, memory):
    """Rows at all times `(T, batch, D)`, with `counts[i]` equal steps from times[i] to the next.

    All steps are one loop, whose program does not grow with their number.
    """
    counts = np.asarray(counts)
    interval = np.repeat(np.arange(len(counts)), counts)
    done = np.concatenate([np.arange(count) / count for count in counts])
    # Of each step; times of its own for each example have two more axes.
    each = (-1,) + (1,) * (len(times.shape) - 1)
    lengths = ops.take(times[1:] - times[:-1], interval, axis=0)
    steps = lengths * _constant((1 / counts[interval]).reshape(each), times)
    starts = ops.take(times[:-1], interval, axis=0) + lengths * _constant(done.reshape(each), times)
    interval = ops.convert_to_tensor(interval, "int32")
    inner = ops.convert_to_tensor(np.arange(len(counts) - 1).reshape((-1, 1, 1)), "int32")
    nodes = [float(node) for node in scheme.nodes]

    @compiled.remembered(memory)
    def advance(t, y, h):
        return scheme.step(lambda stage, y: field(t + nodes[stage] * h, y), (y,), h)[0]

    def body(n, y, kept):
        y = advance(starts[n], y, steps[n])
        # The last of the steps of an interval is the one that stays.
        return y, ops.where(interval[n] == inner, y[None], kept)

    kept = ops.zeros_like(y)[None] + _constant(np.zeros((len(counts) - 1, 1, 1)), y)
    end, kept = compiled.repeat(body, (y, kept), int(counts.sum()))
    rows = ops.concatenate([y[None], kept, end[None]], axis=0)
    each = ops.zeros_like(ops.cast(y[:, 0], "int32"))
    total = int(counts.sum())
    return rows, Statistics(each + total * scheme.stages, each + total, each, each + REACHED)


def _constant(values, like):
    return ops.convert_to_tensor(values, like.dtype)
