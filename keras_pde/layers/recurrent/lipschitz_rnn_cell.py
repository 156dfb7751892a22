import keras
import numpy as np
from keras import ops

from keras_pde.checks import check_number
from keras_pde.layers.recurrent.cell import DifferentialCell


@keras.saving.register_keras_serializable(package="keras_pde")
class LipschitzRNNCell(DifferentialCell):
    """A recurrent cell with a linear part and a Lipschitz nonlinear one, each mostly antisymmetric.

    One step, with x_t held, of

        h' = A h + tanh(W h + V x_t + b),
        A = beta (B - B^T) + (1 - beta) (B + B^T) - gamma I,    W likewise from C.

    The share beta of the antisymmetric part bounds how fast solutions grow: at beta = 1 the real
    parts of A and W are -gamma; below, they may be positive, and then the equation itself lets
    solutions grow, whatever the step. `spectrum()` is that of A + W, exact at the origin.

    Source: Erichson, Azencot, Queiruga, Hodgkinson and Mahoney, "Lipschitz recurrent neural
    networks", 2021 (arXiv 2006.12070). For pixel-by-pixel MNIST they have Euler steps of 0.03,
    beta 0.75 and gamma 0.001, with which the equation itself grows (by 1.4 % a step for 128 units
    and the initial weights here); the defaults are stable.

    Args:
        units: number n of units.
        step_size: h, > 0.
        beta: share of the antisymmetric parts, in [0, 1].
        gamma: damping, not negative.
        scheme: explicit Runge-Kutta method: a name of `keras_pde.integrators`, or one's own.
        **kwargs: of `keras.layers.SimpleRNNCell`; both initializers are N(0, 1 / fan_in) by
            default, the recurrent one that of B and of C.

    Raises:
        ValueError: an argument is out of range, or the scheme is no method of single steps.

    Example:

    >>> features = keras.layers.RNN(kp.layers.LipschitzRNNCell(128))(sequences)
    """

    damping_rate = 2.0  # of A and W each, where the activation has slope 1

    def __init__(self, units, step_size=0.03, beta=1.0, gamma=0.01, scheme="heun", **kwargs):
        super().__init__(units, step_size, scheme, **kwargs)
        self.beta = check_number(beta, "beta", least=0, most=1)
        self.gamma = check_number(gamma, "gamma", least=0)

    def build_recurrent(self):
        shape = (self.units, self.units)
        self.linear_kernel = self._weight("linear_kernel", shape, kind="recurrent")
        self.recurrent_kernel = self._weight("recurrent_kernel", shape, kind="recurrent")

    def matrices(self):
        # beta (B - B^T) + (1 - beta) (B + B^T) = B + (1 - 2 beta) B^T, here transposed.
        damping = self.gamma * ops.eye(self.units, dtype=self.linear_kernel.dtype)
        A, W = (
            ops.transpose(B) + (1 - 2 * self.beta) * B - damping
            for B in (self.linear_kernel.value, self.recurrent_kernel.value)
        )
        return [ops.concatenate([A, W], axis=1)]

    def slope(self, h, u, mask, AW):
        Ah, Wh = ops.split(self.product(h, AW, mask), 2, axis=-1)
        return Ah + self.activation(Wh + u)

    def eigenvalues(self, AW):
        A, W = np.split(AW, 2, axis=1)
        return np.linalg.eigvals(A + W)

    def get_config(self):
        return {**super().get_config(), "beta": self.beta, "gamma": self.gamma}
