"""A loaded model gets a new head, trains on, and is exported: each architecture."""

import doctest
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from selection import some

import keras_pde as kp
from keras_pde import registry

PAGE = Path(__file__).parents[2] / "docs" / "fine_tuning.md"


MODELS = {entry.name: entry for entry in registry.entries("model")}


@pytest.fixture(params=some(MODELS, fast=["small_cnn"]))
def loaded(request, tmp_path):
    entry = MODELS[request.param]
    model = entry.component(**entry.example)
    card = {
        "architecture": entry.name,
        "arguments": entry.example,
        "title": "Toy",
        "dataset": "none",
        "input_shape": model.input_shape[1:],
        "classes": [str(i) for i in range(10)],
        "licence": "Apache-2.0",
    }
    kp.save_model(model, tmp_path / "model", card)
    return kp.load_model(tmp_path / "model")


def test_new_head_trains_on_and_is_exported(loaded, tmp_path):
    x = np.random.default_rng(0).random((16, *loaded.input_shape[1:]), dtype="float32")
    y = np.arange(16) % 3
    trunk = kp.models.features(loaded)
    model = keras.Model(trunk.input, keras.layers.Dense(3)(trunk.output))
    before = trunk.get_weights()
    robust = kp.RobustModel(model, kp.objectives.Adversarial("linf", 0.01))
    robust.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    robust.fit(x, y, batch_size=16, verbose=0)
    assert any(not np.array_equal(a, b) for a, b in zip(before, trunk.get_weights(), strict=True))
    for weight, shared in zip(trunk.weights, loaded.weights, strict=False):
        assert weight is shared
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        model.export(tmp_path / "exported", verbose=False)
        exported = tf.saved_model.load(tmp_path / "exported")
        logits = model.predict(x, verbose=0)
        np.testing.assert_allclose(exported.serve(x), logits, rtol=1e-4, atol=1e-5)
        runtime = pytest.importorskip("onnxruntime")
        model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
        session = runtime.InferenceSession(tmp_path / "model.onnx")
        (outputs,) = session.run(None, {session.get_inputs()[0].name: x})
        np.testing.assert_allclose(outputs, logits, rtol=1e-4, atol=1e-5)


def _gated():
    """Convolutional to the end; its dense layer makes a gate."""
    inputs = keras.Input((8, 8, 4))
    gate = keras.layers.Dense(4, "sigmoid")(keras.layers.GlobalAveragePooling2D()(inputs))
    x = keras.layers.Multiply()([inputs, keras.layers.Reshape((1, 1, 4))(gate)])
    x = keras.layers.Conv2D(3, 1)(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def test_the_head_is_what_makes_the_output():
    inputs = keras.Input((4,))
    trunk = keras.layers.Dense(9)(inputs)
    for head in (
        keras.Sequential([keras.layers.Dense(3)]),
        keras.layers.Dense(3, "softmax"),
        lambda x: keras.layers.Softmax()(keras.layers.Dense(3)(x)),
    ):
        assert kp.models.features(keras.Model(inputs, head(trunk))).output_shape == (None, 9)


@pytest.mark.parametrize(
    "model",
    [
        _gated(),
        keras.Sequential([keras.Input((4,)), keras.layers.ReLU()]),
        type("Own", (keras.Model,), {"call": lambda self, x: x})(),
    ],
)
def test_models_without_a_head(model):
    with pytest.raises(ValueError, match=r"expected a (F|f)unctional\s+model"):
        kp.models.features(model)


def test_readme_section_runs(tmp_path, monkeypatch):
    (code,) = re.findall(r"```pycon\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    model = kp.models.create("small_cnn", width=2, tanh_logits=True)
    card = {
        "architecture": "small_cnn",
        "arguments": {"width": 2, "tanh_logits": True},
        "title": "Toy",
        "dataset": "fashion_mnist_sample",
        "input_shape": (28, 28, 1),
        "classes": [str(i) for i in range(10)],
        "licence": "Apache-2.0",
    }
    monkeypatch.chdir(tmp_path)
    (path,) = re.findall(r'load_model\("(.*?)"\)', code)
    kp.save_model(model, path, card)
    examples = doctest.DocTestParser().get_examples(code)
    sources = [example.source.replace("[:300]", "[:20]") for example in examples]
    if keras.backend.backend() != "tensorflow":
        sources = [source for source in sources if "export" not in source]
    exec(compile("".join(sources), PAGE.name, "exec"), {})
    assert Path("warm").is_dir() == (keras.backend.backend() == "tensorflow")
