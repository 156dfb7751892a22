"""Keras Tuner, or what to do without it."""

import importlib.util

import keras

try:
    import keras_tuner
except ImportError:  # it is an extra
    keras_tuner = None


def require(*modules):
    """Keras Tuner's module.

    Args:
        *modules: names of others that a search needs.

    Raises:
        ImportError: it, or what it needs, is not installed.
    """
    needed = ["keras_tuner", *modules]
    if keras.backend.backend() == "tensorflow":
        needed.append("tensorboard")  # without it each trial would fail
    for name in needed:
        if importlib.util.find_spec(name) is None:
            raise ImportError(
                f"Searches need {name}, which is not installed: pip install 'keras_pde[tuner]' "
                "(without TensorFlow: pip install keras-tuner scikit-learn)."
            )
    return keras_tuner
