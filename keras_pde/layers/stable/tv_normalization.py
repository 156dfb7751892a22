import keras
from keras import ops

from keras_pde import cost, graph
from keras_pde.checks import check_flag, check_number
from keras_pde.registry import register


@register("layer", "tv_normalization", epsilon=0.01, center=False)
class TVNormalization(keras.layers.Layer):
    """Divides the channels of each pixel by their length, and scales and shifts them.

        N(x) = s x / r + b,    r = sqrt(sum_c x_c^2 + epsilon).

    The sum over all pixels of r is a smoothed total variation if x are differences, hence the name;
    N is its derivative. Examples and pixels do not see each other. N is bounded, but steep near
    zero: its slope is up to max |s| / sqrt(epsilon) there.

    Source: Ruthotto and Haber, "Deep neural networks motivated by partial differential equations",
    2018 (arXiv 1804.04272).

    Args:
        epsilon: > 0, in units of x^2.
        center: whether there is a shift b, one a channel, as there is a scale s.

    Input and output shape: `(batch, ..., channels)`.

    Raises:
        ValueError: `epsilon` is not a positive finite number.

    Example:

    >>> x = kp.layers.TVNormalization()(keras.layers.Conv2D(16, 3)(x))
    """

    def __init__(self, epsilon=1e-3, center=True, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.epsilon, self.center = (
            check_number(epsilon, "epsilon", above=0),
            check_flag(center, "center"),
        )

    def build(self, input_shape):
        shape = (input_shape[-1],)
        self.s = self.add_weight(name="scale", shape=shape, initializer="ones", autocast=False)
        self.b = None
        if self.center:
            self.b = self.add_weight(name="shift", shape=shape, initializer="zeros", autocast=False)

    def call(self, inputs):
        # At least float32: squares and their sum leave the range of shorter formats.
        x = ops.cast(inputs, keras.backend.result_type(self.compute_dtype, "float32"))
        x = x * ops.rsqrt(ops.sum(ops.square(x), axis=-1, keepdims=True) + self.epsilon)
        x = x * ops.cast(self.s, x.dtype)
        if self.b is not None:
            x = x + ops.cast(self.b, x.dtype)
        return ops.cast(x, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon, "center": self.center}


graph.rule("cost", TVNormalization)(cost.free)
