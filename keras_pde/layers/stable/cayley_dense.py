import math
from fractions import Fraction

import keras
import numpy as np
from keras import ops

from keras_pde.checks import check_number
from keras_pde.integrators import Scheme
from keras_pde.layers.stable.stable_rate import adjoint
from keras_pde.registry import register


class ImplicitMidpoint(Scheme):
    """The implicit midpoint rule, of which linear equations need the stability function only.

    y_{n+1} = y_n + h f((y_n + y_{n+1}) / 2). `CayleyDense` solves for y_{n+1} itself.
    """

    name = "implicit_midpoint"
    order = 2
    nodes = (Fraction(1, 2),)
    imaginary_limit = math.inf
    real_limit = math.inf
    reversible = True

    def amplification(self, z):
        z = np.asarray(z, "complex128")
        with np.errstate(divide="ignore"):  # the pole at 2
            return abs(1 + z / 2) / abs(1 - z / 2)


@register("layer", "cayley_dense", step_size=0.5, kernel_initializer="he_normal")
class CayleyDense(keras.layers.Layer):
    """An orthogonal dense layer: one step of y' = A y, with A antisymmetric, that keeps the norm.

    The output is

        (I - h/2 A)^{-1} (I + h/2 A) y,    A = K - K^T,

    the implicit midpoint rule, whose matrix, the Cayley transform of h A, is orthogonal for any h;
    all orthogonal matrices without the eigenvalue -1 can be learned. A call costs a linear system
    of the size of the channels, in float32 at least.

    Source: Haber and Ruthotto, "Stable architectures for deep neural networks", 2017 (arXiv
    1705.03341); on implicit midpoint, Hairer, Lubich and Wanner, Geometric Numerical Integration,
    II.1.

    Args:
        step_size: h, > 0, in units of time.
        kernel_initializer: Keras initializer of K.

    Input and output shape: `(batch, ..., channels)`.

    Raises:
        ValueError: `step_size` is not a positive finite number.

    Example:

    >>> x = kp.layers.CayleyDense()(x)
    """

    scheme = ImplicitMidpoint()

    def __init__(self, step_size=1.0, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.step_size = check_number(step_size, "step_size", above=0)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.input_spec = keras.layers.InputSpec(min_ndim=2)

    def build(self, input_shape):
        channels = input_shape[-1]
        self.kernel = self.add_weight(
            name="kernel",
            shape=(channels, channels),
            initializer=self.kernel_initializer,
            autocast=False,
        )

    def call(self, inputs):
        A = self.kernel - adjoint(self.kernel)
        half, one = self.step_size / 2 * A, ops.eye(A.shape[0], dtype=A.dtype)
        y = ops.matmul(ops.cast(inputs, A.dtype), ops.solve(one - half, one + half))
        return ops.cast(y, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def spectrum(self):
        """The eigenvalues of A, as complex numbers."""
        A = ops.convert_to_numpy(self.kernel).astype("float64")
        return 1j * np.linalg.eigvalsh(-1j * (A - adjoint(A)))

    def get_config(self):
        return {
            **super().get_config(),
            "step_size": self.step_size,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
