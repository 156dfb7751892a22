import keras
from keras import layers

from keras_pde.checks import check_count, check_counts
from keras_pde.layers import batch_norm
from keras_pde.models._common import dense_logits, initializers, normalized_input, seeds


def stable_net(
    block, name, input_shape, num_classes, widths, steps, memory, mean, std, tanh_logits, seed
):
    """The network of `hamiltonian_net`, `parabolic_net` and `second_order_net` around a block."""
    widths = check_counts(widths, "widths", example="(32, 64, 112)")
    steps = check_count(steps, "steps")
    initializer, drawn = initializers(seed), seeds(seed)

    def activated(x, filters, kernel_size):
        conv = layers.Conv2D(
            filters,
            kernel_size,
            padding="same",
            use_bias=False,
            kernel_initializer=next(initializer),
        )
        return layers.ReLU()(batch_norm()(conv(x)))

    inputs, x = normalized_input(input_shape, mean, std)
    x = activated(x, widths[0], 3)
    for stage, following in enumerate([*widths[1:], None]):
        x = block(
            steps=steps,
            horizon=steps,
            normalization="tv",
            # So small that steps of length 1 are stable, for all that N steepens the field.
            kernel_initializer=keras.initializers.VarianceScaling(0.002),
            memory=memory,
            seed=next(drawn),
            name=f"stage_{stage + 1}",
        )(x)
        x = activated(x, following or widths[-1], 1)
        if following:
            x = layers.AveragePooling2D(2)(x)
    x = layers.GlobalAveragePooling2D()(x)
    outputs = dense_logits(x, num_classes, tanh_logits, next(initializer))
    return keras.Model(inputs, outputs, name=name)
