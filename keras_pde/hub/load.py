"""Models by name or folder."""

import os
from pathlib import Path

import keras

from keras_pde.hub import index
from keras_pde.hub.card import Card
from keras_pde.hub.download import beside, fetch
from keras_pde.hub.folder import (
    CARD,
    FILES,
    listed_card,
    load_files,
    load_folder,
    read_card,
    without_weights,
)
from keras_pde.hub.listing import Listing
from keras_pde.registry import unknown_name
from keras_pde.training import RobustModel

# Of a clone; where the package is installed, there is no such folder.
SAVED_MODELS = Path(__file__).parents[2] / "saved_models"


def load_model(name: str | Path) -> keras.Model:
    """A published model by its name, or the model of a folder that `save_model` wrote.

    A published model is looked for in the `saved_models` of a clone, in the cache
    (`KERAS_PDE_CACHE`, by default within Keras' folder), then at the addresses in `KERAS_PDE_HUB`:
    http(s):// or file:// URLs or folders, one after the other, separated by spaces or commas.
    With `KERAS_PDE_OFFLINE=1` no network is used. What counts as the model is what the list inside
    the package says, not what an address sends.

    Sizes and SHA-256 digests are checked before a file is parsed, names, shapes and types of all
    weights before one is read, and the logits of stored inputs at the end.

    Example:

        model = load_model("saved/mlp")
        logits = model(images)  # float32 (batch, 28, 28, 1) in [0, 1]

    Args:
        name: of a model of `list_models`, or a folder with `card.json`, `model.weights.h5` and
            `golden.npz`. A published name comes first; a `Path` or `"./name"` is always a folder.

    Returns:
        A functional `keras.Model` with float32 weights, not compiled.

    Raises:
        ValueError: there is no such name or folder, or a file fails a check; the message says
            which.
        FileNotFoundError: the files of a published model are nowhere; it says what was tried.
        OSError: the cache cannot be written.
    """
    listing = _published(name)
    if listing is None:
        return load_folder(_model_folder(name))
    if listing.weights == "none":
        raise without_weights(listing)
    card = _card(listing)
    return load_files(card, lambda file: _located(card, file))


def load_keras_file(path: str | Path) -> keras.Model:
    """The plain model of a `.keras` file, not compiled; of a `RobustModel`, the model within.

    Raises:
        FileNotFoundError: there is no such file.
    """
    model = keras.saving.load_model(keras_file(path), compile=False)
    return model.result if isinstance(model, RobustModel) else model


def keras_file(path: str | Path) -> Path:
    """The path of a `.keras` file that exists; a `FileNotFoundError` otherwise."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Received {str(path)!r}, which is no file (looked at {path.absolute()}); expected a "
            ".keras file, a saved model's folder or a published name."
        )
    return path


def load_card(name: str | Path) -> Card:
    """The card of a published or saved model, without loading the model.

    That of a published one is looked for as `load_model` looks for its files.

    Example:

        print(load_card("saved/mlp").measurements)

    Args:
        name: of a model of `list_models`, or a folder that `save_model` wrote.

    Raises:
        ValueError: there is no such model, or its card is not a valid one.
        FileNotFoundError: the card of a published model is nowhere; it says what was tried.
    """
    listing = _published(name)
    return read_card(_model_folder(name)) if listing is None else _card(listing)


def prefetch(name: str) -> None:
    """Downloads the files of a published model into the cache, unless they are here.

    Raises:
        ValueError: no model has that name, or it comes without weights.
        FileNotFoundError: its files are nowhere; it says what was tried.
    """
    listing = _published(name)
    if listing is None or listing.weights == "none":
        raise ValueError(
            f"Received {name!r}; expected a published model with weights, see `keras-pde list`."
        )
    card = _card(listing)
    for file in FILES:
        _located(card, file)


def _card(listing):
    return listed_card(listing, _located(listing, CARD))


def _located(described: Card | Listing, file):
    """A file of a published model: of the clone, or with the digest that is stated."""
    folder = SAVED_MODELS / described.name
    return stored(folder, file, described) if folder.is_dir() else fetch(described, file)


def stored(folder: Path, file: str, described: Card | Listing) -> Path:
    """A file in a published model's folder, where one may be about to be replaced."""
    new = folder / beside(file, described.digests[file])
    return new if new.is_file() else folder / file


def _model_folder(path):
    """A folder that `save_model` wrote, or the one within a run of `keras-pde train`."""
    path = Path(path)
    inner = path / "model"
    return inner if (inner / CARD).is_file() and not (path / CARD).exists() else path


def _published(name):
    """The listing of a published name; None for a folder."""
    if not isinstance(name, str):
        return None
    listed = index.published()
    if name not in listed and not Path(name).exists():
        own = os.environ.get(index.OWN_INDEX)
        raise ValueError(
            f"{unknown_name('model', name, listed)} It is no folder either."
            + ("" if own else f" {index.OWN_INDEX} can name the zoo.json of a hub of your own.")
        )
    return listed.get(name)
