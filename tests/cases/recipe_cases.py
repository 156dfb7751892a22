"""What the tests of recipes share: a toy recipe, its data and network, and a training to be killed.

`python tests/cases/recipe_cases.py FOLDER` starts the toy training and dies on the way.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers

import keras_pde as kp
from keras_pde import recipes, registry

BACKEND = keras.backend.backend()
SHAPE, CLASSES = (6, 6, 1), 3


def tables(**sections):
    """The tables of a small recipe; sections are laid over it, or replace what is no table."""
    values = {
        "title": "A toy",
        "data": {"name": "fashion_mnist_sample"},
        "model": {"name": "mlp"},
        "training": {"epochs": 2},
    }
    for name, section in sections.items():
        both = isinstance(section, dict) and isinstance(values.get(name), dict)
        values[name] = {**values[name], **section} if both else section
    return values


def recipe(**sections):
    return recipes.Recipe.of(tables(**sections))


def evaluation(**values):
    return {"norm": "linf", "epsilons": [0.1], **values}


def adversarial(**values):
    return {"name": "adversarial", "norm": "linf", "epsilon": 0.1, **values}


def write_data(folder, train=44, test=20):
    """A set of two bright pixels a class under noise."""
    rng = np.random.default_rng(0)

    def part(count):
        y = np.arange(count) % CLASSES
        x = rng.integers(0, 128, (count, *SHAPE), "uint8")
        for rows in (y, 5 - y):
            x[np.arange(count), rows, y] += 120
        return x, y

    (x_train, y_train), (x_test, y_test) = part(train), part(test)
    path = folder / "toy.npz"
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


def toy_network(input_shape=SHAPE, num_classes=CLASSES, width=4, seed=0):
    """Convolution, batch normalization and dropout; float32 logits whatever the precision."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(input_shape)
    x = layers.Conv2D(width, 3, activation="relu")(inputs)
    x = layers.Dropout(0.2)(layers.Flatten()(kp.layers.batch_norm()(x)))
    return keras.Model(inputs, layers.Dense(num_classes, dtype="float32")(x))


@contextlib.contextmanager
def registered(name="recipe_toy", network=toy_network):
    """The registry knows the network."""
    registry.register("model", name)(network)
    try:
        yield
    finally:
        del registry._entries["model", name]


def toy_recipe(data, **sections):
    """All that has a state at once: momentum, averages, augmentation, dropout, noise, schedule."""
    values = tables(
        name="toy/linf-0.1/recipe_toy",
        data={"name": str(data), "validation": 8, "crop": 1, "flip": True, "cutout": 2},
        model={"name": "recipe_toy"},
        objective={"name": "adversarial", "norm": "linf", "epsilon": 0.1, "random_start": True},
        optimizer={"name": "sgd", "momentum": 0.9, "weight_decay": 1e-3},
        training={"epochs": 5, "batch_size": 8, "label_smoothing": 0.1, "average": 0.9},
        validation={"steps": 2, "every": 2},
        evaluation=[{"norm": "linf", "epsilons": [0.1], "images": 10, "attacks": {"name": "fgsm"}}],
    )
    return recipes.Recipe.of(values).replaced(sections)


def short(folder, **changes):
    """A recipe that is soon traced: no adversary, no augmentation, no evaluation."""
    plain = {"data.crop": 0, "data.flip": False, "data.cutout": 0, "objective": {"name": "plain"}}
    changes = {**plain, "training.epochs": 2, "evaluation": [], **changes}
    return toy_recipe(folder / "toy.npz", **changes)


def history(run):
    return [
        {k: v for k, v in row.items() if k != "seconds"}
        for row in run.read_json("run.json")["history"]
    ]


def assert_same_training(run, expected):
    """Same bits in all that a training leaves."""
    for name in ("checkpoint.npz", "best.npz"):
        for a, b in zip(run.read_arrays(name)[0], expected.read_arrays(name)[0], strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    assert history(run) == history(expected)


def quietly(line):
    """In place of `print`."""


def _die(*args):
    os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(folder):
    """Trains until the third epoch; dies before its first file stands."""

    def progress(text, finished, total):
        if text == "epoch 3/5" and finished == 2:
            os.replace = _die

    recipes.train(toy_recipe(folder / "toy.npz"), folder / "killed", say=quietly, progress=progress)


if __name__ == "__main__":
    with registered():
        train_and_die(Path(sys.argv[1]))
