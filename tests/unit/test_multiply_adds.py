"""Multiply-adds against counts by hand and against the docstrings of the models."""

import keras
import pytest
from keras import layers

from keras_pde import models
from keras_pde.layers import (
    AntisymmetricBlock,
    AntisymmetricConv2D,
    ContinuousBlock,
    HamiltonianBlock,
    SymmetricConv2D,
)
from keras_pde.models import multiply_adds


def sequential(*stack, shape=(8, 6, 4)):
    return keras.Sequential([keras.Input(shape), *stack])


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (layers.Conv2D(10, (3, 5), padding="same"), 8 * 6 * 3 * 5 * 4 * 10),
        (layers.Conv2D(10, 3, strides=2, padding="same"), 4 * 3 * 9 * 4 * 10),
        (layers.Conv2D(10, 3, use_bias=False), 6 * 4 * 9 * 4 * 10),
        (layers.Conv2D(10, 3, dilation_rate=2), 4 * 2 * 9 * 4 * 10),
        (layers.Conv2D(10, 3, groups=2), 6 * 4 * 9 * 2 * 10),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), 6 * 4 * 9 * 4 * 2),
        (layers.SeparableConv2D(5, 3, depth_multiplier=2), 6 * 4 * (9 * 4 * 2 + 4 * 2 * 5)),
        (layers.Conv2DTranspose(10, 3, strides=2, padding="same"), 8 * 6 * 9 * 4 * 10),
        (layers.Dense(7), 8 * 6 * 4 * 7),
        (layers.PReLU(), 0),
        (AntisymmetricConv2D(), 8 * 6 * 9 * 4 * 4),
        (SymmetricConv2D(filters=7), 2 * 8 * 6 * 9 * 4 * 7),
        (ContinuousBlock(layers.Dense(4), steps=3), 3 * 4 * 8 * 6 * 4 * 4),
        (ContinuousBlock(sequential(layers.Dense(4)), 3, "euler"), 3 * 8 * 6 * 4 * 4),
        (HamiltonianBlock(2, kernel_initializer="zeros"), 2 * 2 * 2 * 8 * 6 * 9 * 2 * 2),
    ],
)
def test_layers_on_images(layer, expected):
    assert multiply_adds(sequential(layer)) == expected


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (layers.Conv1D(5, 3), (8, 4), 6 * 3 * 4 * 5),
        (layers.DepthwiseConv1D(3), (8, 4), 6 * 3 * 4),
        (layers.SeparableConv1D(5, 3), (8, 4), 6 * (3 * 4 + 4 * 5)),
        (layers.Conv1DTranspose(5, 3), (8, 4), 8 * 3 * 4 * 5),
        (layers.Conv3D(5, 3), (4, 5, 6, 2), 2 * 3 * 4 * 27 * 2 * 5),
        (layers.Conv3DTranspose(5, 3), (4, 5, 6, 2), 4 * 5 * 6 * 27 * 2 * 5),
        (layers.Conv2D(5, 3, data_format="channels_first"), (4, 8, 6), 6 * 4 * 9 * 4 * 5),
    ],
)
def test_layers_on_other_shapes(layer, shape, expected):
    assert multiply_adds(sequential(layer, shape=shape)) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"name": "small_cnn"}, 5_111_680),
        ({"name": "lenet"}, 416_520),
        ({"name": "mlp", "mean": [0.5], "std": [0.5], "tanh_logits": True}, 268_800),
        ({"name": "preact_resnet"}, 555_422_720),
        ({"name": "preact_resnet", "width": 48}, 312_758_016),
        ({"name": "resnext34_2x32"}, 797_803_776),
        ({"name": "resnext34_2x32", "variant": "2019"}, 571_311_360),
    ],
)
def test_the_figures_of_the_docstrings(arguments, expected):
    assert multiply_adds(models.create(**arguments)) == expected


def test_nested_models_and_shared_layers_count_at_every_call():
    inner = sequential(layers.Conv2D(4, 1), shape=(None, None, 4))
    inputs = keras.Input((8, 6, 4), batch_size=5)
    x = inner(layers.MaxPooling2D()(inner(inputs)))
    model = keras.Model(inputs, layers.Flatten()(x))
    calls = len(inner._inbound_nodes)
    outside = layers.MaxPooling2D()(keras.Input((8, 6, 4)))
    inner(outside)  # in no way a part of the model
    assert multiply_adds(model) == (8 * 6 + 4 * 3) * 16
    assert len(inner._inbound_nodes) == calls + 1, "counting must not enter the graph"


@keras.saving.register_keras_serializable(package="test")
@pytest.mark.parametrize(
    "make",
    [
        lambda: ContinuousBlock(layers.Conv2D(2, 3, padding="same"), 2, "euler"),
        lambda: AntisymmetricBlock(2, kernel_size=3),
        lambda: HamiltonianBlock(2, kernel_size=3, horizon=0.1),
    ],
)
def test_a_block_is_counted_at_the_size_of_each_call(make):
    block, inputs = make(), keras.Input((8, 8, 2))
    model = keras.Model(inputs, block(layers.MaxPooling2D(2)(block(inputs))))
    whole = multiply_adds(keras.Model(inputs, block(inputs)))
    assert type(block) is not ContinuousBlock or whole == 64 * 2 * 3 * 3 * 2 * 2
    assert multiply_adds(model) == whole * 5 // 4


class Doubled(layers.Dense):
    def call(self, inputs):
        return super().call(super().call(inputs))


class Squares(layers.Layer):
    """It has no weights, and multiplies."""

    def call(self, inputs):
        return keras.ops.matmul(inputs, keras.ops.swapaxes(inputs, -1, -2))


def product():
    inputs = keras.Input((4, 4))
    return keras.Model(inputs, keras.ops.matmul(inputs, inputs))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: sequential(layers.LSTM(3), shape=(5, 2)), "of type LSTM"),
        (lambda: sequential(Doubled(4)), "of type Doubled"),
        (lambda: sequential(layers.TimeDistributed(layers.Dense(3))), "TimeDistributed"),
        (product, "of type Matmul"),
        (lambda: sequential(layers.Lambda(lambda x: x @ x, (8, 6, 6))), "of type Lambda"),
        (lambda: sequential(Squares()), "of type Squares"),
        (lambda: sequential(layers.Conv2D(3, 1), shape=(None, None, 4)), "without None"),
        (lambda: keras.Sequential([layers.Dense(3)]), "has an Input"),
        (lambda: layers.Dense(3), "type Dense"),
    ],
)
def test_refuses_what_it_cannot_count(model, message):
    with pytest.raises(ValueError, match=message):
        multiply_adds(model())


def test_layers_without_products_are_free():
    model = sequential(
        layers.Rescaling(2.0),
        layers.LayerNormalization(),
        layers.Dropout(0.5),
        layers.ReLU(),
        layers.GlobalAveragePooling2D(),
    )
    assert multiply_adds(model) == 0
