from pathlib import Path

import keras

from keras_pde.hub.folder import load_folder


def load_model(folder: str | Path) -> keras.Model:
    """The model of a folder that `save_model` wrote.

    Sizes and SHA-256 digests are checked before a file is parsed, names, shapes and types of all
    weights before one is read, and the logits of the golden inputs at the end.

    Example:

        model = load_model("saved/mlp")
        logits = model(images)  # float32 (batch, 28, 28, 1) in [0, 1]

    Args:
        folder: a folder with `card.json`, `model.weights.h5` and `golden.npz`.

    Returns:
        A `keras.Model`, not compiled.

    Raises:
        ValueError: a file is missing or fails a check; the message says which.
    """
    return load_folder(Path(folder))
