"""The examples of docstrings run, on a small network and few images."""

import doctest
import inspect
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from public_cases import public
from selection import some

import keras_pde as kp

EXAMPLES = {
    name: examples
    for name, value in public().items()
    if (examples := doctest.DocTestParser().get_examples(inspect.getdoc(value) or ""))
}
ELSEWHERE = {
    "data-unpack": "parts from elsewhere: tests/unit/test_data_pack.py",
    "offline-collect": "a run from elsewhere: tests/end_to_end/test_offline_runs.py",
    "offline-pack": "a machine's probe: tests/end_to_end/test_offline_packing.py",
    "recipes-train": "tests/end_to_end/test_recipe_training.py",
    "tuner-RobustHyperModel": "tests/end_to_end/test_tuner.py",
    "tuner-search": "tests/end_to_end/test_tuner.py",
}
# What other tests do at greater length.
SLOW = {
    "analysis-convergence_report",
    "attack-minimal_distance",
    "callbacks-RobustValidation",
    "data-pack",
    "kp-evaluate",
    "model-continuous_net",
}
ZOO = Path(__file__).parents[2] / "zoo"


def network():
    """Images of 8x8 pixels, blocks in depth, batch normalization."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    rate = keras.Sequential([kp.layers.batch_norm(), keras.layers.Conv2D(4, 3, padding="same")])
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    x = kp.layers.ContinuousBlock(rate, steps=2)(x)
    x = kp.layers.AntisymmetricBlock(steps=2, horizon=1.0)(x)
    x = keras.layers.BatchNormalization()(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def names(kind):
    """What the examples of a kind take as given."""
    rng = np.random.default_rng(0)
    x, y = rng.random((128, 8, 8, 1), dtype="float32"), np.arange(128) % 3
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = network()
    model.compile("adam", loss)
    found = {
        **{"keras": keras, "keras_pde": kp, "kp": kp, "np": np, "ops": ops},
        **{name: getattr(kp.objectives, name) for name in kp.objectives.__all__},
        **{name: getattr(kp.attacks, name) for name in kp.attacks.__all__},
        **{"RobustModel": kp.RobustModel, "TanhLogits": kp.layers.TanhLogits},
        **{"model": model, "network": network(), "loss": loss, "x": x, "y": y},
        **{"x_train": x, "y_train": y, "held_out": (x, y), "x_test": x[:12], "y_test": y[:12]},
        **{
            "x_held_out": x[:12],
            "y_held_out": y[:12],
            "batches": [(x, y)],
            "step": lambda x, y: None,
        },
        "recipe": kp.recipes.load(ZOO / "searches" / "fashion_mnist_sample.toml"),
    }
    if kind in ("layer", "layers"):
        images = ops.convert_to_tensor(rng.random((2, 8, 8, 16), dtype="float32"))
        found |= {"x": images, "y": images, "features": images[:, 0, 0]}
        found["sequences"] = images[:, 0]
    if kind == "optimizer":
        found["batches"] = 7
    if kind == "model":
        found["x"] = rng.random((4, 32, 32, 3), dtype="float32")
        found["y"] = y[:4]
    return found


@pytest.fixture
def eagerly(name):
    """On TensorFlow, where a few steps of training are faster than their tracing."""
    if keras.backend.backend() != "tensorflow" or not name.startswith("callbacks"):
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def short(name, source):
    """As many epochs as a test has time for."""
    source = re.sub(r"epochs=\d+", "epochs=1, verbose=0", source)
    if name == "model-continuous_net":
        return source.replace("model.fit", 'model.compile("sgd", loss); model.fit')
    return source


@pytest.mark.filterwarnings("ignore:.*ends within a cycle")
@pytest.mark.filterwarnings("ignore:.*run_functions_eagerly")
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("name", some(EXAMPLES, fast=EXAMPLES.keys() - SLOW))
def test_example_runs(name, tmp_path, monkeypatch, capsys):
    if name in ELSEWHERE:
        pytest.skip(ELSEWHERE[name])
    if name.startswith("tuner"):
        pytest.importorskip("keras_tuner")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ZOO / "recipes", tmp_path / "zoo" / "recipes")
    given = names(name.split("-")[0])
    for example in EXAMPLES[name]:
        if not example.want:
            exec(compile(short(name, example.source), name, "exec"), given)
        else:
            assert repr(eval(example.source, given)) == example.want.strip()


def test_what_runs_elsewhere_exists():
    assert EXAMPLES.keys() >= ELSEWHERE.keys()
    root = Path(__file__).parents[2]
    files = {reason.split(": ")[-1] for reason in ELSEWHERE.values()}
    assert all((root / file).is_file() for file in files)
