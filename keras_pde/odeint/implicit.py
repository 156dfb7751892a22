import keras
import numpy as np
from keras import ops

from keras_pde.autodiff import jacobian


class Implicit:
    """Steps of a `Rosenbrock` method, with the Jacobian of the field by automatic differentiation.

    The gradient of a step is exact, second derivatives of the field included.
    """

    # Of a stiff equation the polynomial can be less accurate than the end of a step.
    stops = True

    def __init__(self, scheme):
        self.scheme, self.order = scheme, scheme.order
        # The Jacobian evaluates the field, too; the first stage is the end of the step before.
        self.evaluations = scheme.stages + 1

    def attempt(self, field, t, y, slope, h):
        """`(y_new, error, usable, *parts)`; the last part is the slope at the end of the step."""
        scheme, usable = self.scheme, []

        def finite(value, axes=-1):
            # Such a step is rejected; but the gradient of later stages must not meet its NaN.
            fine = ops.all(ops.isfinite(value), axis=axes, keepdims=True)
            usable.append(ops.reshape(fine, (-1, 1)))
            return ops.where(fine, value, 0.0)

        point = ops.concatenate([t, y], axis=-1)
        matrices = jacobian(lambda z: field(z[:, :1], z[:, 1:]), point)[1]
        matrices = finite(matrices, (-2, -1))
        by_time, by_state = matrices[..., 0], matrices[..., 1:]
        unit = ops.eye(y.shape[-1], dtype=y.dtype)
        system = unit - scheme.gamma * h[..., None] * by_state
        # As much as rounding is, so that a 1 that is lost in it leaves no singular matrix.
        rounding = 4 * float(np.finfo(keras.backend.standardize_dtype(y.dtype)).eps)
        system = system + rounding * unit * ops.abs(ops.stop_gradient(system))
        parts = []
        for i, (row, others) in enumerate(zip(scheme.a, scheme.c, strict=True)):
            at = _sum(row, parts, y)
            value = finite(field(t + scheme.nodes[i] * h, at)) if i else slope
            right = h * (value + scheme.time_weights[i] * h * by_time)
            right = scheme.gamma * _sum(others, parts, right)
            parts.append(finite(ops.solve(system, right[..., None])[..., 0]))
        new = at + parts[-1]
        end = finite(field(t + h, new))
        usable = ops.all(ops.concatenate(usable, axis=-1), axis=-1, keepdims=True)
        return new, parts[-1], usable, *parts, end

    def polynomial(self, y, new, h, *parts):
        """Coefficients `(4, batch, D)` of x, ..., x^4 of y(t + x h) - y."""
        one, two, three = (_sum(row, parts, 0.0) for row in self.scheme.d)
        return ops.stack([new - y + one, two - one, three - two, -three])


def _sum(weights, parts, value):
    for weight, part in zip(weights, parts, strict=False):
        value = value + weight * part
    return value
