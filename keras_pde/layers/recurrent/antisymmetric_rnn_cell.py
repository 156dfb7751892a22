import math

import keras
import numpy as np
from keras import ops

from keras_pde.checks import check_count, check_flag, check_number
from keras_pde.layers.recurrent.cell import DifferentialCell


@keras.saving.register_keras_serializable(package="keras_pde")
class AntisymmetricRNNCell(DifferentialCell):
    """A recurrent cell whose linear part only turns and damps, so that it remembers long.

    One step, with x_t held, of

        h' = tanh(u),    u = (W - W^T - gamma I) h + V x_t + b,

    or, gated, of h' = tanh(u) sigmoid((W - W^T - gamma I) h + V_z x_t + b_z). W is strictly upper
    triangular and stored as n (n - 1) / 2 numbers.

    The Jacobian is D (W - W^T - gamma I), D diagonal. Ungated, D is in (0, 1], and no solution of
    the linearised equation grows. Euler's steps grow all the same, unless
    gamma >= (1 - sqrt(1 - h^2 w^2)) / h for the largest eigenvalue i w of W - W^T; `rk4` needs no
    gamma up to h w = 2.83. Gated, D is in [-1/4, 1): the gate lies below 1 but has a slope of its
    own, so nothing is guaranteed where D < 0. `spectrum()` is for D = 1, the worst of both for
    D > 0: the gate is wide open. At the origin, half open, D is 1/2.

    Source: Chang, Chen, Haber and Chi, "AntisymmetricRNN: a dynamical system view on recurrent
    neural networks", 2019 (arXiv 1902.09689). They tried step sizes 0.01, 0.1 and 1 of Euler's
    method; the defaults here are stable for initial weights.

    Args:
        units: number n of units, at least 2.
        step_size: h, > 0.
        gamma: diffusion, not negative.
        gated: whether the gate is there.
        scheme: explicit Runge-Kutta method: a name of `keras_pde.integrators`, or one's own.
        **kwargs: of `keras.layers.SimpleRNNCell`; both initializers are N(0, 1 / fan_in) by
            default, the recurrent one that of the matrix W.

    Raises:
        ValueError: an argument is out of range, or the scheme is no method of single steps.

    Example:

    >>> cell = kp.layers.AntisymmetricRNNCell(128, step_size=0.1, gamma=0.01, scheme="rk4")
    >>> features = keras.layers.RNN(cell)(sequences)
    """

    damping_rate = 1.0  # by how much gamma moves the spectrum to the left

    def __init__(self, units, step_size=0.1, gamma=0.01, gated=False, scheme="heun", **kwargs):
        super().__init__(check_count(units, "units", 2), step_size, scheme, **kwargs)
        self.gamma, self.gated = check_number(gamma, "gamma", least=0), check_flag(gated, "gated")
        self.drives = 2 if self.gated else 1

    def build_recurrent(self):
        rows, columns = np.triu_indices(self.units, 1)
        self._upper = np.stack([rows, columns], axis=1).astype("int32")

        def upper(shape, dtype=None):
            W = self.recurrent_initializer((self.units, self.units), dtype=dtype)
            return ops.take(ops.reshape(W, (-1,)), rows * self.units + columns)

        self.recurrent_kernel = self._weight(
            "recurrent_kernel", (len(rows),), kind="recurrent", initializer=upper
        )

    def matrices(self):
        n = self.units
        W = ops.scatter(self._upper, self.recurrent_kernel, (n, n))
        return [ops.transpose(W) - W - self.gamma * ops.eye(n, dtype=W.dtype)]

    def slope(self, h, u, mask, R):
        turned = self.product(h, R, mask)
        if not self.gated:
            return self.activation(turned + u)
        u, u_z = ops.split(u, 2, axis=-1)
        return self.activation(turned + u) * ops.sigmoid(turned + u_z)

    def eigenvalues(self, R):
        w = np.linalg.eigvalsh(1j * (R - R.T) / 2)
        return 1j * w - self.gamma

    def _remedy(self, spectrum):
        hw = self.step_size * np.abs(spectrum.imag).max()
        if self.scheme.name != "euler" or hw > 1:
            return super()._remedy(spectrum)
        least = math.ceil(1e4 * (1 - math.sqrt(1 - hw**2)) / self.step_size) / 1e4
        return f"Raise gamma to {least:g} at least, or take a scheme such as 'rk4'."

    def get_config(self):
        return {**super().get_config(), "gamma": self.gamma, "gated": self.gated}
