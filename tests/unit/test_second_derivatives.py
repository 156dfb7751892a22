"""Gradients of input gradients against finite differences."""

import functools

import keras
import numpy as np
import pytest
from derivative_cases import IMAGES, ON_TENSORFLOW
from keras import layers, ops

from keras_pde.autodiff import value_and_grad

RNG = np.random.default_rng(0)
SERIES, VOLUMES = (6, 4), (4, 4, 4, 2)

# fmt: off
ACTIVATIONS = [
    "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu",
    "hard_tanh", "leaky_relu", "log_sigmoid", "log_softmax", "mish", "relu6", "selu",
    "sigmoid", "silu", "soft_shrink", "softmax", "softplus", "sparse_plus", "sparse_sigmoid",
    "sparsemax", "squareplus", "tanh", "tanh_shrink",
]
# fmt: on
# The layers of Keras that have weights, mix positions, or are not linear.
MENDED = [
    layers.LayerNormalization,
    functools.partial(layers.GroupNormalization, 3),
    functools.partial(layers.Activation, "softsign"),
]
RESIZING = [
    functools.partial(layers.Resizing, 5, 12),
    functools.partial(layers.Resizing, 8, 8),
    layers.UpSampling2D,
]
OTHERS = [
    *[
        (functools.partial(getattr(layers, name), *arguments), shape)
        for name, arguments, shape in (
            ("BatchNormalization", (), IMAGES),
            ("RMSNormalization", (), IMAGES),
            ("UnitNormalization", (), IMAGES),
            ("Conv1D", (3, 2), SERIES),
            ("Conv1DTranspose", (3, 2), SERIES),
            ("Conv2D", (4, 3), IMAGES),
            ("Conv2DTranspose", (4, 3), IMAGES),
            ("DepthwiseConv1D", (3,), SERIES),
            ("DepthwiseConv2D", (3,), IMAGES),
            ("SeparableConv1D", (3, 2), SERIES),
            ("SeparableConv2D", (4, 3), IMAGES),
            ("Conv3D", (3, 2), VOLUMES),
            ("Conv3DTranspose", (3, 2), VOLUMES),
            ("EinsumDense", ("abc,cd->abd", (6, 5)), SERIES),
            ("MaxPooling1D", (2,), SERIES),
            ("MaxPooling2D", (2,), IMAGES),
            ("AveragePooling1D", (2,), SERIES),
            ("AveragePooling2D", (2,), IMAGES),
            ("AdaptiveAveragePooling2D", (3,), IMAGES),
            ("AdaptiveMaxPooling2D", (3,), IMAGES),
            ("GlobalAveragePooling2D", (), IMAGES),
            ("GlobalMaxPooling2D", (), IMAGES),
            ("UpSampling1D", (2,), SERIES),
            ("UpSampling2D", (2,), IMAGES),
            ("UpSampling3D", (2,), VOLUMES),
            ("LSTM", (4,), SERIES),
            ("GRU", (4,), SERIES),
            ("SimpleRNN", (4,), SERIES),
            ("ConvLSTM1D", (3, 2), (5, 6, 3)),
            ("PReLU", (), IMAGES),
            ("ELU", (), IMAGES),
            ("LeakyReLU", (), IMAGES),
            ("ReLU", (6.0,), IMAGES),
            ("Softmax", (), IMAGES),
            ("Rescaling", (2.0, 1.0), IMAGES),
            ("CenterCrop", (4, 4), IMAGES),
            ("ZeroPadding2D", (), IMAGES),
        )
        if hasattr(layers, name)
    ],
    (lambda: layers.Bidirectional(layers.LSTM(3)), SERIES),
    (lambda: layers.TimeDistributed(layers.Dense(3)), SERIES),
    (lambda: layers.SpectralNormalization(layers.Conv2D(3, 3)), IMAGES),
    (lambda: twice_given(layers.MultiHeadAttention(2, 3)), SERIES),
    (lambda: twice_given(layers.GroupQueryAttention(2, 4, 2)), SERIES),
    (lambda: lambda z: layers.Attention()([z, z]), SERIES),
    (lambda: lambda z: layers.AdditiveAttention()([z, z]), SERIES),
    *[
        (functools.partial(layers.Activation, name), IMAGES)
        for name in ACTIVATIONS
        if hasattr(keras.activations, name)
    ],
]


def twice_given(layer):
    return lambda z: layer(z, z)


def model_around(layer, shape):
    """Smooth, and with weights on both sides of the layer."""
    inputs = keras.Input(shape)
    z = layer(layers.Dense(shape[-1], "tanh")(inputs))
    return keras.Model(inputs, layers.Dense(3, "tanh")(z))


def slope_along(model, x):
    """Input gradient along a direction, as a function of the weights."""
    direction = np.random.default_rng(1).normal(size=x.shape)

    def slope(values):
        pairs = list(zip(model.trainable_variables, values, strict=True))

        def total(z):
            with keras.StatelessScope(pairs):
                outputs = model(z, training=False)
            return 1.3 * ops.sum(ops.sin(outputs))

        return ops.sum(value_and_grad(total, x)[1] * direction)

    return slope


def error_of(model, x, h):
    """Largest difference between its derivatives along directions and finite differences."""
    slope = slope_along(model, ops.convert_to_tensor(x))
    values = [ops.convert_to_numpy(v) for v in model.trainable_variables]
    gradient = value_and_grad(slope, [ops.convert_to_tensor(v) for v in values])[1]
    found = []
    for _ in range(3):
        d = [RNG.normal(size=v.shape) for v in values]
        derivative = sum(np.sum(np.asarray(g) * e) for g, e in zip(gradient, d, strict=True))
        ahead, behind = (
            float(slope([ops.convert_to_tensor(v + s * e) for v, e in zip(values, d, strict=True)]))
            for s in (h, -h)
        )
        found.append((derivative, (ahead - behind) / (2 * h)))
    found = np.asarray(found)
    return np.abs(found[:, 0] - found[:, 1]).max() / np.abs(found).max()


# In double precision; but resizing computes in single precision whatever it is given.
FINE, ROUGH = (1e-6, 1e-6), (1e-3, 5e-3)


@ON_TENSORFLOW
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("make", MENDED)
def test_layers_of_which_tensorflow_has_no_or_other_second_derivatives(make):
    (h, tolerance), x = FINE, RNG.normal(size=(4, *IMAGES))
    assert error_of(model_around(make(), IMAGES), x, h) < tolerance


@ON_TENSORFLOW
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos3"])
@pytest.mark.parametrize("make", [*RESIZING])
def test_resizing(make, interpolation):
    (h, tolerance), x = ROUGH, RNG.normal(size=(4, *IMAGES)).astype("float32")
    assert error_of(model_around(make(interpolation=interpolation), IMAGES), x, h) < tolerance


@pytest.mark.slow
@ON_TENSORFLOW
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("make", "shape"), OTHERS)
def test_the_other_layers_of_keras(make, shape):
    (h, tolerance), x = FINE, RNG.normal(size=(4, *shape))
    assert error_of(model_around(make(), shape), x, h) < tolerance


# Projective transforms


def columns(linear, shape, push):
    """Gradient of sum(push * linear(x)) at any x, by the images of the unit vectors."""
    units = np.eye(np.prod(shape)).reshape(-1, *shape).astype("float32")
    pushed = [
        np.sum(push * ops.convert_to_numpy(linear(unit[None])), axis=(1, 2, 3)) for unit in units
    ]
    return np.stack(pushed, axis=1).reshape(len(push), *shape)


@ON_TENSORFLOW
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("fill_mode", ["constant", "nearest", "wrap", "reflect"])
def test_gradient_of_projective_transforms(fill_mode, interpolation):
    """TensorFlow's own is off by half of its length, in the layers below too."""
    transforms = np.asarray(
        [[1.1, 0.2, -1.3, -0.15, 0.9, 2.2, 0.01, 0.02], [0.5, 0.6, 3, -0.4, 0.7, -5, 0, 0]],
        "float32",
    )

    def transformed(images, fill_value=0.0):
        images = ops.convert_to_tensor(images)
        images = ops.broadcast_to(images, (2, *images.shape[1:]))
        return ops.image.affine_transform(images, transforms, interpolation, fill_mode, fill_value)

    x = RNG.uniform(size=(2, 5, 6, 2)).astype("float32")
    push = RNG.normal(size=x.shape).astype("float32")

    def total(images):
        outputs = transformed(images, 0.3)
        return ops.sum(outputs * push), outputs

    (_, outputs), gradient = value_and_grad(total, ops.convert_to_tensor(x), has_aux=True)
    np.testing.assert_allclose(outputs, transformed(x, 0.3), atol=1e-6)
    np.testing.assert_allclose(gradient, columns(transformed, x.shape[1:], push), atol=1e-5)
