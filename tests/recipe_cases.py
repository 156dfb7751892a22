"""What the tests of recipes share: a tiny recipe, its data, and changes of it."""

import keras
import numpy as np

from keras_pde import recipes

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


def write_data(folder, train=44, test=20):
    """A set of two bright pixels a class under noise, which a small network learns a little."""
    rng = np.random.default_rng(0)

    def part(count):
        y = np.arange(count) % CLASSES
        x = rng.integers(0, 128, (count, *SHAPE), "uint8")
        x[np.arange(count), y, y] += 120
        x[np.arange(count), 5 - y, y] += 120
        return x, y

    (x_train, y_train), (x_test, y_test) = part(train), part(test)
    path = folder / "toy.npz"
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path
