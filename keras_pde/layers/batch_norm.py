from typing import Any

import keras


def batch_norm(
    momentum: float = 0.9, epsilon: float = 1e-5, **kwargs: Any
) -> keras.layers.BatchNormalization:
    """Batch normalization that trains on several devices.

    Under `tf.distribute.MirroredStrategy` the replicas of the ordinary Keras layer drift apart, and
    the saved model is not the trained one; `synchronized=True` cures it. (It also can be
    differentiated twice by anyone: outside of this library's derivatives the ordinary layer's
    second ones are wrong, by 5e-4 to 3e-2, since `tf.nn.moments` stops a gradient.) On JAX and
    torch neither problem exists, and Keras refuses the argument there.

    The layer has the same weights on every backend, so a `.weights.h5` file loads on all of them.
    A `.keras` file records `synchronized` and does not: build architectures by name instead.

    Args:
        momentum: of the moving statistics; the 0.9 of the papers, since Keras' 0.99 needs hundreds
            of steps before inference agrees with training.
        epsilon: added to the variance.
        **kwargs: of `keras.layers.BatchNormalization`.

    Returns:
        A `keras.layers.BatchNormalization`.
    """
    if keras.backend.backend() == "tensorflow":
        kwargs["synchronized"] = True
    return keras.layers.BatchNormalization(momentum=momentum, epsilon=epsilon, **kwargs)


def moving_statistics(layers) -> list[tuple[keras.Variable, float]]:
    """(variable, momentum) of the moving statistics that these layers' normalizations update."""
    return [
        (variable, layer.momentum)
        for layer in layers
        if isinstance(layer, keras.layers.BatchNormalization)
        # Keras 3.12 has no renorm; with momentum 1 nothing moves.
        if layer.built and layer.trainable
        if not getattr(layer, "renorm", False) and layer.momentum < 1
        for variable in (layer.moving_mean, layer.moving_variance)
    ]
