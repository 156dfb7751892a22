from keras import ops

from keras_pde.checks import check_number
from keras_pde.layers.stable.stable_rate import StableRate, adjoint, linear, operator_norm


class Antisymmetric(StableRate):
    """sigma((K - K^T - gamma I) y + b), for dense maps and convolutions; see those."""

    def __init__(self, kernel_size, gamma, activation, use_bias, kernel_initializer, **kwargs):
        super().__init__(kernel_size, activation, use_bias, kernel_initializer, **kwargs)
        self.gamma = check_number(gamma, "gamma", least=0)

    def build(self, input_shape):
        channels = input_shape[-1]
        self._add_weights(channels, channels, bias=channels)

    def call(self, inputs):
        x = linear(inputs, self.kernel - adjoint(self.kernel))
        if self.gamma:
            x = x - self.gamma * inputs
        return self.activation(x if self.bias is None else x + self.bias)

    def eigenvalue_range(self, value_of=ops.convert_to_numpy, norm=operator_norm):
        """`(0, ||K - K^T||)`: the moduli of the imaginary parts."""
        kernel = value_of(self.kernel)
        return 0.0, norm(kernel - adjoint(kernel))

    def get_config(self):
        return {**super().get_config(), "gamma": self.gamma}
