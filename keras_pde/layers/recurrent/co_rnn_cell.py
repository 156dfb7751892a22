import keras
import numpy as np
from keras import ops

from keras_pde.checks import check_number
from keras_pde.layers.recurrent.cell import DifferentialCell


@keras.saving.register_keras_serializable(package="keras_pde")
class CoRNNCell(DifferentialCell):
    """A recurrent cell of coupled, driven and damped oscillators (coRNN).

    One implicit-explicit step, with x_t held, of

        y'' = tanh(W y + W_z y' + V x_t + b) - frequency y - damping y'.

    The damping is taken implicitly, and y uses the new velocity z:

        z_{t+1} = z_t + h (tanh(W y_t + W_z z_t + V x_t + b) - frequency y_t - damping z_{t+1}),
        y_{t+1} = y_t + h z_{t+1}.

    With g = (tanh(...) - frequency y - damping z) / (1 + h damping) that is Euler's step for the
    field (z + h g, g), which depends on h. Hence `scheme` is `euler` and `spectrum()` is that of
    this field: 1 + h lambda are the eigenvalues of the step itself. A single oscillator (W = W_z =
    0) does not grow as long as h^2 frequency <= 4 + 2 h damping, and then |1 + h lambda| =
    1 / sqrt(1 + h damping) if it oscillates.

    Source: Rusch and Mishra, "Coupled oscillatory recurrent neural network (coRNN)", 2021 (arXiv
    2010.00951), which names frequency gamma and damping epsilon and allows the damping to be
    implicit or explicit. The defaults are those of its code for sequential MNIST, where it is
    explicit.

    Args:
        units: number n of oscillators. The states are y and z, the output is y.
        step_size: h, > 0.
        frequency: square of the angular frequency of an undamped oscillator, > 0.
        damping: not negative.
        **kwargs: of `keras.layers.SimpleRNNCell`; both initializers are N(0, 1 / fan_in) by
            default, the recurrent one that of W and W_z, one below the other.

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> rnn = keras.layers.RNN(kp.layers.CoRNNCell(256), return_state=True)
    >>> output, y, z = rnn(sequences)
    """

    parts = 2

    def __init__(self, units, step_size=0.042, frequency=2.7, damping=4.7, **kwargs):
        super().__init__(units, step_size, "euler", **kwargs)
        self.frequency = check_number(frequency, "frequency", above=0)
        self.damping = check_number(damping, "damping", least=0)

    def build_recurrent(self):
        shape = (2 * self.units, self.units)
        self.recurrent_kernel = self._weight("recurrent_kernel", shape, kind="recurrent")

    def matrices(self):
        return [ops.convert_to_tensor(self.recurrent_kernel)]

    def slope(self, yz, u, mask, W):
        y, z = ops.split(yz, 2, axis=-1)
        force = (
            self.activation(self.product(yz, W, mask) + u) - self.frequency * y - self.damping * z
        )
        g = force / (1 + self.step_size * self.damping)
        return ops.concatenate([z + self.step_size * g, g], axis=-1)

    def eigenvalues(self, W):
        return self._eigenvalues(W, self.step_size)

    def _eigenvalues(self, W, h):
        """Of the field that Euler's step of length h is made for; with h = 0, of the equation."""
        identity = np.eye(self.units)
        own = np.concatenate([self.frequency * identity, self.damping * identity])
        g = (W - own) / (1 + h * self.damping)
        z = np.concatenate([0 * identity, identity])
        return np.linalg.eigvals(np.concatenate([z + h * g, g], axis=1))

    def _growth_rate(self, spectrum):
        (W,) = self.matrices()
        return self._eigenvalues(ops.convert_to_numpy(W), 0.0).real.max()

    def _remedy(self, spectrum):
        return "Lower step_size or frequency."

    def get_config(self):
        config = super().get_config()
        del config["scheme"]
        return {**config, "frequency": self.frequency, "damping": self.damping}
