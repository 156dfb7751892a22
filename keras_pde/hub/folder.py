"""A saved model: a folder of numbers and one card, never code.

    model.weights.h5   the weights, as Keras writes them, or the same tree in float16
    golden.npz         a few inputs and the logits that the stored weights gave for them
    card.json          the `Card`: architecture, data, caveats, measurements, digests

The architecture is rebuilt by our own code from its registry name and arguments. The digests show
damage and mixed-up files; the list inside this package has the digest of each published card. Any
other card can be edited together with its digests. What holds against such a card: no code is
loaded, nothing that a weights file points to is read, and the weights take no more memory than
their file has bytes.
"""

import contextlib
import io
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from keras_pde import _keras, environment, files, models
from keras_pde.files import flush, sha256
from keras_pde.hub.building import build, check_counts, count_parameters, multiply_adds
from keras_pde.hub.card import GOLDEN_TOLERANCE, STORAGE, Card
from keras_pde.hub.files import parsing, read
from keras_pde.hub.golden import EXAMPLES, GOLDEN, check_golden, compute_logits, difference
from keras_pde.hub.layout import read_into, write_half
from keras_pde.hub.listing import CARD, Listing
from keras_pde.registry import unknown_name
from keras_pde.training import RobustModel

WEIGHTS = "model.weights.h5"
FILES = (WEIGHTS, GOLDEN)
CARD_LIMIT = _SLACK = 2**20


def save_model(
    model: keras.Model,
    folder: str | Path,
    card: Card | dict[str, Any],
    overwrite: bool = False,
    weights: str = "float32",
) -> Card:
    """Save a model that `load_model` rebuilds, after having checked that it does.

    The folder appears complete or not at all: it is written and loaded back under a temporary name
    beside its place, then renamed. A folder that is replaced stands until that moment, and comes
    back if the exchange fails; only a process killed between the two renames leaves the old one
    under its temporary name (`.NAME.*.old`).

    Example:

        model = kp.models.create("mlp", hidden=(64,))
        save_model(model, "saved/mlp", {
            "architecture": "mlp", "arguments": {"hidden": [64]}, "title": "A small MLP",
            "dataset": "mnist", "input_shape": (28, 28, 1), "licence": "MIT",
            "classes": [str(digit) for digit in range(10)],
        })
        model = load_model("saved/mlp")

    Args:
        model: the plain model, inputs in [0, 1], logits out. An optimizer is not saved.
        folder: where to save; missing parent folders are made.
        card: a `Card`, or a dict of its fields down to `provenance`. Without `architecture` and
            `arguments` the network is described by its own configuration, see `models.to_config`.
        overwrite: replace the folder if it is a saved model.
        weights: `"float32"`; `"float16"`, of half the size, loaded back as float32; or `"none"`,
            which saves the card alone.

    Returns:
        The card that was saved, complete.

    Raises:
        ValueError: the folder exists, the card is wrong, or the model rebuilt from the card does
            not reproduce the logits of `model`, be it that float16 is too coarse for it.
        OSError: the disk is full or not writable; nothing was changed.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"Received model of type {type(model).__name__}; expected a keras.Model.")
    if isinstance(model, RobustModel):
        raise ValueError("Received a RobustModel; expected the model in it, `robust.result`.")
    if weights not in STORAGE:
        raise unknown_name("storage of weights", weights, STORAGE)
    if isinstance(card, dict):
        if not {"architecture", "arguments"} & card.keys():
            arguments = {"config": models.to_config(model)}
            card = {**card, "architecture": models.FROM_CONFIG, "arguments": arguments}
        card = Card.from_user(card)
    card = Card.from_json(card.to_json())  # what a reader will get, lists for nested tuples
    folder = Path(folder).resolve()
    check_free(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with files.staging(folder.parent, f".{folder.name}.") as scratch:
        made = scratch / folder.name
        made.mkdir()
        card = _write(model, made, card, weights)
        for path in (*made.iterdir(), made):
            flush(path)
        with exchanged(made, folder, overwrite):
            return card


def read_card(folder: Path) -> Card:
    """The card in a folder that `save_model` wrote."""
    if folder.is_file():
        raise ValueError(
            f"Received {folder}, which is a file; expected the folder that `save_model` wrote. A "
            ".keras file is for keras.saving.load_model."
        )
    if not folder.is_dir():
        raise ValueError(f"Received folder {folder}, which does not exist; expected a saved model.")
    return Card.from_json(read(folder / CARD, CARD_LIMIT))


def listed_card(listing: Listing, path: Path) -> Card:
    """The card in a file, if it is the one that the list of models describes."""
    data = read(path, CARD_LIMIT, listing.digests[CARD], "the list of models")
    found = Listing.of(data)
    if found != listing:
        raise ValueError(
            f"Received the model {listing.name!r} in the list of models, which says other things "
            f"than its card {path}: {found.to_dict()}; expected the same. Publish it again."
        )
    return Card.from_json(data)


def without_weights(described: Card | Listing) -> ValueError:
    """The error for a model of which there is a card only."""
    name = described.name or "FOLDER"
    return ValueError(
        f"Received the card of {described.name or described.title!r}, which comes without weights; "
        "expected one with weights. Train them by the card's recipe: "
        f"keras-pde show {name} --recipe > recipe.toml, then keras-pde train recipe.toml."
    )


def load_folder(folder: Path) -> keras.Model:
    """The model of a folder, checked against the card in it."""
    return load_files(read_card(folder), folder.joinpath)


def load_files(card: Card, locate: Callable[[str], Path]) -> keras.Model:
    """The model of a card, whose files are where `locate(name)` says.

    Sizes and SHA-256 digests are checked before a file is parsed, names, shapes and types of all
    weights before one is read, and the logits of the golden inputs at the end.
    """
    if card.weights == "none":
        raise without_weights(card)
    check_counts(card)
    weights = locate(WEIGHTS)
    own = card.architecture == models.FROM_CONFIG
    # What a network of one's own computes in may be shorter, and parts of it not stored.
    least = card.parameters * (2 if card.weights == "float16" else 4) // (4 if own else 1)
    if weights.is_file() and weights.stat().st_size < least:
        raise ValueError(
            f"Received {weights} of {weights.stat().st_size} bytes; expected at least {least}, for "
            f"the {card.parameters} parameters of the card's model."
        )
    parameters = count_parameters(card)
    if parameters != card.parameters:
        raise ValueError(
            f"Received a card of {card.architecture!r} with parameters={card.parameters}; expected "
            f"{parameters}, as its architecture and arguments give: the card was edited, or the "
            "architecture changed since."
        )
    model = build(card)
    _load_weights(model, card, weights)
    check_golden(model, card, locate(GOLDEN))
    return model


def is_ours(path):
    """Whether it is a file of a saved model, or one that is about to replace it."""
    names = "|".join(map(re.escape, (CARD, *FILES)))
    return path.is_file() and bool(re.fullmatch(rf"({names})(\.[0-9a-f]{{16}})?", path.name))


def check_free(folder, overwrite):
    """Refuses a folder that exists, or, to overwrite, of which something else would be lost."""
    if not folder.exists():
        return
    if not overwrite:
        raise ValueError(
            f"Received folder {folder}, which exists; expected a new name, or overwrite=True."
        )
    if not folder.is_dir() or not all(map(is_ours, folder.iterdir())):
        raise ValueError(
            f"Received overwrite=True for {folder}, which holds other things than a saved model; "
            "expected a folder of which nothing else is lost."
        )


@contextlib.contextmanager
def exchanged(made, folder, overwrite):
    """Renames a finished folder to its place; what stood there comes back if an error follows.

    Within it the new folder stands, and the old one beside it.
    """
    old = folder.with_name(f"{made.parent.name}.old")
    try:
        if overwrite and folder.exists():
            os.replace(folder, old)
        os.replace(made, folder)  # refuses a folder that somebody else filled meanwhile
        flush(folder.parent)
        yield
    except BaseException:
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _load_weights(model, card, path):
    # What Keras writes for this model says what a file may contain.
    reference = _keras.weights_file(model)
    limit = reference.getbuffer().nbytes + _SLACK
    data = read(path, limit, card.digests.get(WEIGHTS, "none"))
    with parsing(path):
        with h5py.File(reference, "r+") as own, h5py.File(io.BytesIO(data), "r") as received:
            read_into(received, own, card.weights == "float16")
        _keras.read_weights(model, reference)


def _write(model, staging, card, weights):
    """Fill the staging folder and check it; returns the complete card."""
    inputs = np.random.default_rng(0).random((EXAMPLES, *card.input_shape), dtype="float32")
    logits = compute_logits(model, inputs)
    expected = (EXAMPLES, len(card.classes))
    if logits.shape != expected or not np.isfinite(logits).all():
        raise ValueError(
            f"Received a model with outputs of shape {logits.shape} for {EXAMPLES} examples (all "
            f"finite: {np.isfinite(logits).all()}); expected finite logits {expected}, one for "
            "each of the card's classes."
        )
    # Only the rebuilt model is saved: Keras would write the given one's optimizer too.
    rebuilt = build(card)
    card = replace(
        card,
        weights=weights,
        parameters=rebuilt.count_params(),
        multiply_adds=multiply_adds(rebuilt),
        digests={},
        sizes={},
        golden_tolerance=GOLDEN_TOLERANCE,
        keras_version=keras.__version__,
        keras_pde_version=environment.version("keras_pde"),
    )
    try:
        _keras.set_weights(rebuilt, model.get_weights())
        error, limit = difference(compute_logits(rebuilt, inputs), logits, card)
        if not error <= limit:
            raise ValueError(
                f"Its logits differ from the rebuilt one's by {error:.3g}; expected at most "
                f"{limit:.3g}."
            )
    except ValueError as error:
        raise ValueError(
            f"Received a model that the card's architecture {card.architecture!r} with arguments "
            f"{card.arguments} does not rebuild; expected the plain model that they build. "
            f"Nothing was saved. {error}"
        ) from error
    if weights != "none":
        card = _write_files(rebuilt, staging, card, inputs, logits)
    (staging / CARD).write_text(card.to_json() + "\n", encoding="utf-8")
    if weights != "none":
        load_folder(staging)
    return card


def _write_files(model, staging, card, inputs, logits):
    stored = _keras.weights_file(model)
    if card.weights == "float16":
        full, stored = stored, io.BytesIO()
        with h5py.File(full, "r") as source, h5py.File(stored, "w") as target:
            write_half(source, target)
        with h5py.File(stored, "r") as source, h5py.File(full, "r+") as own:
            read_into(source, own, half=True)
        _keras.read_weights(model, full)
    golden = compute_logits(model, inputs)  # of the weights as stored
    error, limit = difference(golden, logits, card)
    if not error <= limit:
        raise ValueError(
            f"Received a model whose logits change by {error:.3g} in {card.weights}; expected at "
            f"most {limit:.3g}. Nothing was saved; store it as float32."
        )
    examples = io.BytesIO()
    np.savez(examples, inputs=inputs, logits=golden)
    made = dict(zip(FILES, (stored.getvalue(), examples.getvalue()), strict=True))
    for name, data in made.items():
        (staging / name).write_bytes(data)
    return replace(
        card,
        digests={name: sha256(data) for name, data in made.items()},
        sizes={name: len(data) for name, data in made.items()},
    )
