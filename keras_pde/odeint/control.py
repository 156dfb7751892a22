import numpy as np
from keras import ops

# Of Hairer's dopri5: how far below the tolerance to aim, and by how much a step may change at once.
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 10.0


class Controller:
    """Steps so long that the error of each is about the tolerance, for each example by itself.

    The error e of a step, relative to atol + rtol max(|y|, |y_new|), root mean square over the
    example, is to be at most 1. The next step is h clip(0.9 e^-a e_before^b, 0.2, 10), with
    b = 0.2 / p and a = 1 / p - 0.75 b: proportional and integral control, which damps changes to
    and fro. After a rejection, b = 0 and it does not grow. No gradient flows through any of this.

    Source: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, II.4; Hairer and
    Wanner, II, IV.2.

    Args:
        order: p, of the solution, whose error estimate is of order p - 1.
        rtol: relative tolerance.
        atol: absolute tolerance.
    """

    # State before the first step: the error before, and the most that the next step may grow by.
    start = (1e-4, _GROW)

    def __init__(self, order, rtol, atol):
        self.order, self.rtol, self.atol = order, rtol, atol

    def norm(self, e, *ys):
        """`(batch, 1)`, from rows; infinite where it is not a number."""
        e, *ys = (ops.stop_gradient(value) for value in (e, *ys))
        size = ops.abs(ys[0]) if len(ys) == 1 else ops.maximum(*map(ops.abs, ys))
        ratio = e / (self.atol + self.rtol * size)
        norm = ops.sqrt(ops.mean(ops.square(ratio), axis=-1, keepdims=True))
        return ops.where(ops.isfinite(norm), norm, np.inf)

    def first(self, field, y, slope, span):
        """Hairer's guess of the first step, for which it evaluates the field once."""
        size, speed = self.norm(y, y), self.norm(slope, y)
        small = (size < 1e-5) | (speed < 1e-5) | ~ops.isfinite(speed)
        h = ops.minimum(ops.where(small, 1e-6, 0.01 * size / ops.maximum(speed, 1e-5)), span)
        bend = self.norm(field(h, y + h * slope) - slope, y) / h
        steepest = ops.maximum(speed, bend)
        aimed = (0.01 / ops.maximum(steepest, 1e-15)) ** (1 / self.order)
        aimed = ops.where(steepest <= 1e-15, ops.maximum(1e-6, 1e-3 * h), aimed)
        # Where the guess has left the domain of the field, the norm is infinite and this is 0.
        aimed = ops.where(aimed > 0, aimed, h)
        return ops.stop_gradient(ops.minimum(ops.minimum(100 * h, aimed), span))

    def next(self, h, error, accepted, before, growth):
        """`(h, before, growth)` after a step of length h."""
        beta = 0.2 / self.order
        error = ops.maximum(error, 1e-10)
        change = _SAFETY * error ** -(1 / self.order - 0.75 * beta)
        change = ops.where(accepted, change * before**beta, change)
        change = ops.clip(change, _SHRINK, ops.where(accepted, growth, 1.0))
        before = ops.where(accepted, ops.maximum(error, 1e-4), before)
        return h * change, before, ops.where(accepted, ops.full_like(h, _GROW), 1.0)
