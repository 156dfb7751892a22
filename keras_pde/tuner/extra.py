"""Keras Tuner, or what to do without it."""

try:
    import keras_tuner
except ImportError:  # it is an extra
    keras_tuner = None


def require():
    """Keras Tuner's module.

    Raises:
        ImportError: it is not installed.
    """
    if keras_tuner is None:
        raise ImportError(
            "Searches need Keras Tuner, which is not installed: pip install 'keras_pde[tuner]'."
        )
    return keras_tuner
