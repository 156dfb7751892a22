from keras import ops

from keras_pde.integrators import RungeKutta
from keras_pde.integrators.runge_kutta import moved
from keras_pde.odeint import dense


class Explicit:
    """Steps of an explicit `RungeKutta` method, whose last stage is the first of the next step."""

    # Whether steps end at each of the times: here the polynomial is as accurate as the step.
    stops = False

    def __init__(self, scheme):
        self.scheme = scheme if scheme.a[-1] == scheme.b[:-1] else _ending_in_slope(scheme)
        self.order = scheme.order
        self.evaluations = self.scheme.stages - 1
        self._nodes = [float(node) for node in self.scheme.nodes]
        lower = self.scheme.lower
        self._estimate = [b - w for b, w in zip(self.scheme.b, lower, strict=True)]

    def attempt(self, field, t, y, slope, h):
        """`(y_new, error, usable, *parts)`; the last part is the slope at the end of the step."""
        usable = []

        def stage(i, at):
            if i == 0:
                return slope
            k = field(t + self._nodes[i] * h, at)
            usable.append(ops.all(ops.isfinite(k), axis=-1, keepdims=True))
            # Such a step is rejected; but the gradient of later stages must not meet its NaN.
            return ops.where(usable[-1], k, 0.0)

        new, slopes = self.scheme.slopes(stage, y, h)
        error = moved(0.0, self._estimate, slopes, h)
        usable = ops.all(ops.concatenate(usable, axis=-1), axis=-1, keepdims=True)
        return new, error, usable, *slopes

    def polynomial(self, y, new, h, *slopes):
        """Coefficients `(4, batch, D)` of x, ..., x^4 of y(t + x h) - y."""
        weights = ops.convert_to_tensor(dense.weights(self.scheme), y.dtype)
        return h * ops.einsum("ps,sbd->pbd", weights, ops.stack(slopes))


def _ending_in_slope(scheme):
    return RungeKutta(
        scheme.name, scheme.order, [*scheme.a, scheme.b], [*scheme.b, 0], [*scheme.lower, 0]
    )
