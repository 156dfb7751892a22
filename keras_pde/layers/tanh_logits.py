import keras
from keras import ops

from keras_pde import cost, graph
from keras_pde.checks import check_number
from keras_pde.layers.batch_norm import batch_norm
from keras_pde.registry import register


@register("layer", "tanh_logits", scale=2.5)
class TanhLogits(keras.layers.Layer):
    """Logits that are normalized over the batch and bounded by a trainable scalar t.

    Put it after the last dense layer, so that training cannot lower the loss by scaling the logits
    up, which also scales the input gradient:

        z = BatchNorm(x) without scale and center,    y = t tanh(z / t).

    The bound |y| <= |t| can mask gradients: where tanh saturates, the input gradient of the
    cross-entropy vanishes although the prediction is not robust. Evaluate with margin and DLR
    losses too, not only with cross-entropy.

    Source: Finlay, Oberman and Abbasi, "Improved robustness to adversarial examples using Lipschitz
    regularization of the loss", 2018 (arXiv 1810.00953).

    Args:
        scale: initial value of t, > 0.

    Input and output shape: `(batch, ..., classes)`.

    Raises:
        ValueError: `scale` is not a positive finite number.

    Example:

    >>> x = keras.layers.Dense(10, dtype="float32")(features)
    >>> logits = TanhLogits()(x)
    """

    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.scale = check_number(scale, "scale", above=0)
        self.batch_norm = batch_norm(scale=False, center=False, dtype=self.dtype_policy)

    def build(self, input_shape):
        self.batch_norm.build(input_shape)
        self.t = self.add_weight(
            name="t",
            shape=(),
            initializer=keras.initializers.Constant(self.scale),
            autocast=False,
        )

    def call(self, inputs, training=None):
        z = ops.cast(self.batch_norm(inputs, training=training), "float32")
        t = ops.cast(self.t, "float32")
        return ops.cast(t * ops.tanh(z / t), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


graph.rule("cost", TanhLogits)(cost.free)
