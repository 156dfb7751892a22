"""What the tests of saved models share: a tiny model, its card, edits of its folder, and a clone
to publish it in.
"""

import contextlib
import json

import keras
import numpy as np
import pytest

from keras_pde import registry
from keras_pde.hub import board, download, index, load, load_model, mirrors, save_model
from keras_pde.hub.files import sha256

SHAPE = (4, 4, 1)
WEIGHTS = "model.weights.h5"
FILES = ["card.json", "golden.npz", WEIGHTS]
README = f"# Title\n\n{board.BEGIN}\n{board.END}\n\nEnd\n"


def mlp(width=6, activation="tanh"):
    layers = keras.layers
    inputs = x = keras.Input(SHAPE)
    x = layers.BatchNormalization()(layers.Flatten()(x))
    for _ in range(3):  # the last two have equal shapes
        x = layers.Dense(width, activation=activation)(x)
    return keras.Model(inputs, layers.Dense(3)(layers.Dropout(0.5)(x)))


@contextlib.contextmanager
def registered():
    """The registry knows `mlp` as "hub_test_mlp"."""
    registry.register("model", "hub_test_mlp")(mlp)
    try:
        yield
    finally:
        del registry._entries["model", "hub_test_mlp"]


def make_row(**changes):
    row = {
        "norm": "linf",
        "epsilon": 0.1,
        "images": 100,
        "clean_accuracy": 0.9,
        "clean_interval": [0.8, 1.0],
        "robust_accuracy": 0.5,
        "robust_interval": [0.4, 0.6],
        "median_distance": None,
        "attacks": [{"label": "PGD-ce", "config": {"class": "PGD", "norm": "linf"}}],
        "seed": 0,
        "digest": "0" * 64,
        "keras_pde_version": "0.1.0",
        "date": "2026-01-31",
    }
    return row | changes


def make_fields():
    return {
        "architecture": "hub_test_mlp",
        "arguments": {"width": 6},
        "title": "Tiny",
        "dataset": "none",
        "input_shape": SHAPE,
        "classes": ["cat", "dog", "bœuf"],
        "licence": "Apache-2.0",
        "caveats": ["untrained"],
        "measurements": [make_row()],
        "provenance": {"seed": 3, "minutes": np.float32(0.5)},
    }


def complete_fields(**changes):
    """Of a card that can be published."""
    complete = {"name": "toy/net", "objective": "Plain()", "recipe": {"title": "Tiny"}}
    return make_fields() | complete | changes


def make_model():
    keras.utils.set_random_seed(1)
    return mlp()


def save_original(folder):
    folder = folder / "tiny"
    save_model(make_model(), folder, make_fields())
    return folder


def edit_card(folder, **changes):
    path = folder / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def sign(folder):
    """What somebody who can edit the card does after exchanging a file."""
    files = [folder / name for name in FILES[1:]]
    edit_card(folder, digests={path.name: sha256(path.read_bytes()) for path in files})


def refused(folder, match):
    with pytest.raises(ValueError, match=match):
        load_model(folder)


def make_clone(tmp_path, monkeypatch):
    """A repository without models, from which the package seems to be imported."""
    root = tmp_path / "clone"
    (root / "keras_pde").mkdir(parents=True)
    (root / "keras_pde" / "zoo.json").write_text("{}")
    (root / "setup.cfg").touch()
    (root / "README.md").write_text(README)
    monkeypatch.setattr(index, "PACKAGE_INDEX", root / "keras_pde" / "zoo.json")
    monkeypatch.setattr(load, "SAVED_MODELS", root / "saved_models")
    for name in (index.OWN_INDEX, mirrors.MIRRORS, download.OFFLINE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(download.CACHE, str(tmp_path / "cache"))
    return root


def save_run(folder):
    """What `keras-pde train` leaves."""
    save_model(make_model(), folder / "model", complete_fields())
    return folder


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def logits(model):
    return np.asarray(model.predict(np.full((1, *SHAPE), 0.5, "float32"), verbose=0))
