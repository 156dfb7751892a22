"""The bank that every registered layer passes, then what is special about single layers."""

import inspect
import json

import keras
import numpy as np
import pytest
from keras import ops
from layer_cases import GOLDEN, build, outputs

import keras_pde.layers
from keras_pde import autodiff, registry

BACKEND = keras.backend.backend()
LAYERS = [pytest.param(entry, id=entry.name) for entry in registry.entries("layer")]


def values(layer):
    return [ops.convert_to_numpy(v) for v in layer.variables]


def predict(layer, x):
    return ops.convert_to_numpy(layer(ops.convert_to_tensor(x), training=False))


def check_gradients(layer, x, training=False):
    """The gradient of a generic function of the output is nonzero for each weight and the input."""
    names = [v.path for v in layer.trainable_variables] + ["the input"]
    fixed = [v.value for v in layer.non_trainable_variables]
    has_modes = "training" in inspect.signature(layer.call).parameters
    mode = {"training": training} if has_modes else {}

    def loss(point):
        output, _ = layer.stateless_call(point[:-1], fixed, point[-1], **mode)
        shape = output.shape[1:]
        weights = np.random.default_rng(1).normal(size=shape).astype("float32")
        return ops.sum(output * weights)

    point = [v.value for v in layer.trainable_variables] + [ops.convert_to_tensor(x)]
    for name, gradient in zip(names, autodiff.value_and_grad(loss, point)[1], strict=True):
        gradient = ops.convert_to_numpy(gradient)
        assert np.isfinite(gradient).all(), name
        assert np.abs(gradient).max() > 0, f"no gradient reaches {name}"


@pytest.mark.parametrize("entry", LAYERS)
class TestBank:
    def test_config_is_complete(self, entry):
        layer = entry.component(**entry.example)
        for name, parameter in inspect.signature(entry.component).parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                continue
            assert entry.example.get(name, parameter.default) != parameter.default, (
                f"give {name!r} a non-default value in the registered example"
            )
            assert name in layer.get_config()
        config = layer.get_config()
        assert entry.component.from_config(config).get_config() == config
        assert keras.saving.get_registered_name(entry.component).startswith("keras_pde>")

    def test_declared_shape_is_real_and_output_finite(self, entry):
        layer, x = build(entry)
        y = predict(layer, x)
        assert layer.compute_output_shape(x.shape) == y.shape
        assert np.isfinite(y).all()

    @pytest.mark.parametrize("training", [False, True])
    def test_gradient_reaches_everything(self, entry, training):
        layer, x = build(entry)
        check_gradients(layer, x, training)

    def test_inference_is_deterministic_and_changes_nothing(self, entry):
        layer, x = build(entry)
        before = values(layer)
        np.testing.assert_array_equal(predict(layer, x), predict(layer, x))
        for old, new in zip(before, values(layer), strict=True):
            np.testing.assert_array_equal(old, new)

    @pytest.mark.parametrize("mode", ["inference", "training"])
    def test_golden_numbers_of_tensorflow(self, entry, mode):
        golden = json.loads(GOLDEN.read_text())[entry.name][mode]
        found = outputs(entry, mode == "training")
        np.testing.assert_allclose(found, golden, rtol=1e-5, atol=1e-5)

    def test_keras_file_round_trip(self, entry, tmp_path):
        layer, x = build(entry)
        model = keras.Sequential([keras.Input(x.shape[1:]), layer])
        model(ops.convert_to_tensor(x), training=True)  # moves what is not at its initial value
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(predict(loaded, x), predict(model, x))

    def test_example_does_not_depend_on_batch(self, entry):
        layer, x = build(entry)
        alone = predict(layer, x[2:3])
        np.testing.assert_allclose(predict(layer, x)[2:3], alone, rtol=1e-5, atol=1e-6)

    def test_masks_pass_through(self, entry):
        layer, x = build(entry)
        if isinstance(layer, keras.layers.RNN):
            pytest.skip("reads the mask, and has no time left")
        found = []

        class Spy(keras.layers.Layer):
            supports_masking = True

            def call(self, x, mask=None):
                found.append(mask)
                return x

        x[-1] = 0
        Spy()(layer(keras.layers.Masking()(ops.convert_to_tensor(x))))
        expected = x.any(axis=-1)
        if found[0].ndim > expected.ndim:  # with an axis of time behind that of the batch
            expected = np.repeat(expected[:, None], found[0].shape[1], axis=1)
        np.testing.assert_array_equal(found[0], expected)

    @pytest.mark.filterwarnings("ignore:`shuffle=True`")  # of Keras' test, about its own data
    def test_keras_own_layer_test(self, entry):
        testing = pytest.importorskip("keras.src.testing")  # private, so it may move
        _, x = build(entry)
        testing.TestCase().run_layer_test(
            entry.component,
            init_kwargs=entry.example,
            input_shape=x.shape,
            supports_masking=True,
        )


class TestTanhLogits:
    def logits(self, x, **kwargs):
        layer = keras_pde.layers.TanhLogits(**kwargs)
        return layer, ops.convert_to_numpy(layer(ops.convert_to_tensor(x), training=True))

    def test_closed_form(self):
        x = np.random.default_rng(0).normal(3.0, 5.0, size=(64, 10)).astype("float32")
        z = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
        _, y = self.logits(x, scale=0.7)
        np.testing.assert_allclose(y, 0.7 * np.tanh(z / 0.7), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("t", [0.3, -0.3])
    def test_bound(self, t):
        layer = keras_pde.layers.TanhLogits()
        x = ops.convert_to_tensor(1e4 * np.arange(-3, 4, dtype="float32")[:, None])
        layer.build(x.shape)
        layer.t.assign(t)
        y = ops.convert_to_numpy(layer(x, training=False))
        assert np.abs(y).max() == np.float32(0.3)

    def test_one_trainable_weight(self):
        layer, _ = self.logits(np.ones((2, 10), "float32"))
        assert [v.shape for v in layer.trainable_variables] == [()]

    def test_float16_policy_computes_in_float32(self):
        x = np.random.default_rng(0).normal(size=(8, 10)).astype("float16")
        layer, y = self.logits(x, scale=1.0001, dtype="mixed_float16")
        assert y.dtype == "float16"
        assert layer.t.dtype == "float32"

    @pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf")])
    def test_refuses_scale(self, scale):
        with pytest.raises(ValueError, match="finite number above 0"):
            keras_pde.layers.TanhLogits(scale=scale)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="float64, and the defect is TensorFlow's")
def test_batch_norm_is_differentiated_twice_through_training_mode():
    # A nonlinear layer below is essential: the stopped term cancels for batch norm alone.
    x, weights = np.random.default_rng(0).normal(1.0, 1.0, size=(2, 16, 3))

    def error(layer):
        layer.build(x.shape)
        fixed = [v.value for v in layer.non_trainable_variables]

        def penalty(w):
            def value(x):
                y, _ = layer.stateless_call([], fixed, ops.sin(w * x), training=True)
                return ops.sum(weights * y * y * y)

            return ops.sum(ops.square(autodiff.value_and_grad(value, x)[1]))

        slope = autodiff.value_and_grad(penalty, ops.ones((), "float64"))[1]
        h = 1e-4
        difference = (penalty(1.0 + h) - penalty(1.0 - h)) / (2 * h)
        return abs(float(slope / difference) - 1)

    plain = {"scale": False, "center": False, "dtype": "float64"}
    assert error(keras_pde.layers.batch_norm(**plain)) < 1e-5
    assert error(keras.layers.BatchNormalization(**plain)) < 1e-5


def test_batch_norm_is_synchronized_on_tensorflow_only():
    config = keras_pde.layers.batch_norm().get_config()
    assert config["synchronized"] == (BACKEND == "tensorflow")
