"""BatchNormalization folded for attacks: the same function, and only where it is one."""

import keras
import numpy as np
import pytest

import keras_pde as kp
from keras_pde.attacks import folding

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="only TensorFlow's programs are folded"
)


def _settled(model, shape):
    """Moving statistics, scales and offsets that a wrong folding would show."""
    rng = np.random.default_rng(0)
    weights = [rng.uniform(0.2, 1.5, w.shape) for w in model.get_weights()]
    model.set_weights(weights)
    return rng.random((5, *shape)).astype("float32")


@pytest.mark.parametrize("name", ["small_cnn", "resnext34_2x32"])
def test_folded_model_is_the_model(name):
    shape = (8, 8, 1)
    extra = {"width": 2} | ({"blocks": (1, 1, 1)} if name.startswith("resnext") else {})
    model = kp.models.create(name, input_shape=shape, **extra)
    x = _settled(model, shape)
    expected = np.asarray(model(x, training=False))
    assert len(folding._replaced(model)) >= 8
    found = np.asarray(folding.prepare(model)(x))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


class OwnCall(keras.Model):
    """A graph of layers with a `call` around it."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=training) + 1.0


def _graph(between):
    inputs = keras.Input((8, 8, 1))
    x = between(inputs)
    outputs = keras.layers.GlobalAveragePooling2D()(x)
    return inputs, outputs


def _conv(**options):
    return keras.layers.Conv2D(3, 3, **options)


def _shared(inputs):
    x = _conv()(inputs)
    return keras.layers.Add()([x, keras.layers.BatchNormalization()(x)])


UNFOLDABLE = {
    "another consumer": _shared,
    "activation": lambda x: keras.layers.BatchNormalization()(_conv(activation="relu")(x)),
    "other axis": lambda x: keras.layers.BatchNormalization(axis=1)(_conv()(x)),
}


@pytest.mark.parametrize("case", UNFOLDABLE)
def test_what_is_not_one_convolution_is_left_alone(case):
    model = keras.Model(*_graph(UNFOLDABLE[case]))
    x = _settled(model, (8, 8, 1))
    assert folding._replaced(model) == {}
    np.testing.assert_array_equal(folding.prepare(model)(x), model(x, training=False))


def test_a_call_around_the_graph_is_called():
    layers = lambda x: keras.layers.BatchNormalization()(_conv()(x))  # noqa: E731
    model = OwnCall(*_graph(layers))
    x = _settled(model, (8, 8, 1))
    np.testing.assert_array_equal(folding.prepare(model)(x), model(x, training=False))
    plain = keras.Model(*_graph(layers))
    assert len(folding._replaced(plain)) == 2


@pytest.mark.parametrize("first", ["mixed_float16", "float64", "float32"])
def test_inputs_are_cast_as_layers_cast_them(first):
    """A convolution of another precision before, and images of another precision than either."""
    inputs = keras.Input((8, 8, 1))
    x = _conv()(inputs=_conv(dtype=first)(inputs))
    x = keras.layers.BatchNormalization()(inputs=x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    images = _settled(model, (8, 8, 1))
    assert len(folding._replaced(model)) == 2
    expected = np.asarray(model(images, training=False))
    for dtype in ("float32", "float64"):
        found = np.asarray(folding.prepare(model)(images.astype(dtype)))
        np.testing.assert_allclose(found, expected, rtol=1e-2 if "16" in first else 1e-4)


def test_sequential_models_and_new_weights():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            _conv(),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Flatten(),
            keras.layers.Dense(4),
        ]
    )
    x = _settled(model, (8, 8, 1))
    y = np.zeros(5, "int64")
    target = kp.attacks.Target(model, x)
    attack = kp.attacks.PGD("linf", 0.1, steps=3)
    attack(target, x, y)
    model.set_weights([w + 0.1 for w in model.get_weights()])
    again, fresh = (attack(t, x, y) for t in (target, kp.attacks.Target(model, x)))
    np.testing.assert_array_equal(again.adversarial, fresh.adversarial)
