"""Save a model as a folder that can be checked, and load it back only if every check holds.

A folder holds numbers and one card, never code:

    model.weights.h5   the weights, as Keras writes them
    golden.npz         a few inputs and the logits that the saved model gave for them
    card.json          the `Card`: architecture, data, caveats, measurements, digests

The architecture is rebuilt by our own code from its registry name and arguments. The digests show
damage and mixed-up files. As long as they are kept on the card itself, they do not stop somebody
who edits the card, who can also choose how large a model is built; what holds against such a card
is that no code is loaded, nothing that a weights file points to is read, and no file makes us
allocate more than the model it claims to be.
"""

import hashlib
import io
import math
import os
import shutil
import tempfile
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from keras_pde import environment, models
from keras_pde._card import GOLDEN_TOLERANCE, Card

_WEIGHTS, _GOLDEN, _CARD = "model.weights.h5", "golden.npz", "card.json"
_EXAMPLES = 4
_CARD_LIMIT = _SLACK = 2**20
_GOLDEN_LIMIT = 2**24


def save_model(
    model: keras.Model, folder: str | Path, card: Card | dict[str, Any], overwrite: bool = False
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
        card: a `Card`, or a dict of its fields down to `provenance`.
        overwrite: replace the folder if it is a saved model.

    Returns:
        The card that was saved, complete.

    Raises:
        ValueError: the folder exists, the card is wrong, or the model rebuilt from the card does
            not reproduce the logits of `model`.
        OSError: the disk is full or not writable; nothing was changed.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"Received model of type {type(model).__name__}; expected a keras.Model.")
    if isinstance(card, dict):
        card = Card.from_user(card)
    card = Card.from_json(card.to_json())  # what a reader will get, lists for nested tuples
    folder = Path(folder).resolve()
    _check_free(folder, overwrite)
    inputs = np.random.default_rng(0).random((_EXAMPLES, *card.input_shape), dtype="float32")
    logits = _logits(model, inputs)
    expected = (_EXAMPLES, len(card.classes))
    if logits.shape != expected or not np.isfinite(logits).all():
        raise ValueError(
            f"Received a model with outputs of shape {logits.shape} for {_EXAMPLES} examples (all "
            f"finite: {np.isfinite(logits).all()}); expected finite logits {expected}, one for "
            "each of the card's classes."
        )
    staging = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    old = staging.with_name(staging.name + ".old")
    try:
        staging.mkdir(parents=True)
        card = _write(model, staging, card, inputs, logits)
        for path in (*staging.iterdir(), staging):
            _flush(path)
        _exchange(staging, folder, old, overwrite)
        _flush(folder.parent)
        return card
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


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
    folder = Path(folder)
    card = load_card(folder)
    model = _build(card)
    if model.count_params() != card.parameters:
        raise ValueError(
            f"Received {folder / _CARD} with parameters={card.parameters}; expected "
            f"{model.count_params()}, as its architecture and arguments give: the card was edited, "
            "or the architecture changed since."
        )
    _load_weights(model, folder, card)
    _check_golden(model, folder, card)
    return model


def load_card(folder: str | Path) -> Card:
    """The card of a saved model, without loading the model.

    Example:

        print(load_card("saved/mlp").metrics)

    Args:
        folder: a folder that `save_model` wrote.

    Raises:
        ValueError: there is no card, or it is not a valid one.
    """
    folder = Path(folder)
    if folder.is_file():
        raise ValueError(
            f"Received {folder}, which is a file; expected the folder that `save_model` wrote. A "
            ".keras file is for keras.saving.load_model."
        )
    if not folder.is_dir():
        raise ValueError(f"Received folder {folder}, which does not exist; expected a saved model.")
    return Card.from_json(_read(folder / _CARD, _CARD_LIMIT))


def _build(card):
    try:
        return models.create(card.architecture, **card.arguments)
    except TypeError as error:
        raise ValueError(
            f"Received arguments {card.arguments} for the architecture {card.architecture!r}; "
            f"expected its own: {error}."
        ) from error


def _logits(model, inputs):
    return keras.ops.convert_to_numpy(model(inputs, training=False)).astype("float32")


def _sha256(data):
    return hashlib.sha256(data).hexdigest()


def _read(path, limit, digest=None):
    """The bytes of a file, once. Whoever parses them parses what was measured and digested."""
    if not path.is_file():
        raise ValueError(
            f"Received folder {path.parent} without its {path.name}; expected a file"
            + (f" with SHA-256 {digest}." if digest else ".")
        )
    with open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"Received {path} of more than {limit} bytes; expected at most that.")
    if digest is not None and _sha256(data) != digest:
        raise ValueError(
            f"Received {path} with SHA-256 {_sha256(data)}; its card expects {digest}: the file "
            "is damaged or belongs to another model."
        )
    return data


@contextmanager
def _parsing(path) -> Iterator[None]:
    """Foreign bytes can make a parser raise anything; our caller gets one kind of error."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"Received {path}, which is damaged, made for another model or forged: {error}"
        ) from error


def _load_weights(model, folder, card):
    with tempfile.TemporaryDirectory() as scratch:
        # What Keras would write for this model says what it may be asked to read.
        reference = Path(scratch, "reference.weights.h5")
        model.save_weights(reference)
        limit = reference.stat().st_size + _SLACK
        data = _read(folder / _WEIGHTS, limit, card.digests.get(_WEIGHTS, "none"))
        copy = Path(scratch, _WEIGHTS)
        copy.write_bytes(data)
        with _parsing(folder / _WEIGHTS):
            with h5py.File(reference) as expected, h5py.File(copy) as received:
                _check_layout(received, expected)
            model.load_weights(copy)


def _check_layout(received, expected):
    """Refuse an HDF5 group with other members, shapes or types, or whose numbers are elsewhere.

    The expected tree leads, so that a group linked into itself cannot trap us, and no link is
    followed before it is known to be a plain one. Datasets must be neither chunked (so there is no
    filter to inflate), external nor virtual: then they hold no more than their declared shape.
    """
    if set(received) != set(expected):
        lacks, adds = set(expected) - set(received), set(received) - set(expected)
        raise ValueError(f"{received.name} lacks {sorted(lacks)} and adds {sorted(adds)}")
    for name in expected:
        link = received.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise ValueError(
                f"{name} in {received.name} is a {type(link).__name__}; expected no link"
            )
        found, wanted = _describe(received[name]), _describe(expected[name])
        if found != wanted:
            raise ValueError(f"{name} in {received.name} is {found}; expected {wanted}")
        if isinstance(expected[name], h5py.Group):
            _check_layout(received[name], expected[name])


def _describe(item):
    if not isinstance(item, h5py.Dataset):
        return "a group" if isinstance(item, h5py.Group) else "neither a group nor a dataset"
    stored = [kind for kind in ("chunks", "external", "is_virtual") if getattr(item, kind)]
    return f"{item.dtype} {item.shape}" + (f" stored with {stored}" if stored else "")


def _check_golden(model, folder, card):
    data = _read(folder / _GOLDEN, _GOLDEN_LIMIT, card.digests.get(_GOLDEN, "none"))
    with _parsing(folder / _GOLDEN), zipfile.ZipFile(io.BytesIO(data)) as archive:
        inputs = _read_array(archive, "inputs.npy", (_EXAMPLES, *card.input_shape))
        golden = _read_array(archive, "logits.npy", (_EXAMPLES, len(card.classes)))
        if not np.isfinite(golden).all():
            raise ValueError("golden logits are not finite")
    logits = _logits(model, inputs)
    error = np.max(np.abs(logits - golden)) if logits.shape == golden.shape else math.inf
    limit = card.golden_tolerance * np.max(np.abs(golden))
    if not error <= limit:  # so that NaN fails
        raise ValueError(
            f"Received weights in {folder} whose logits differ from the golden ones by "
            f"{error:.3g}; expected at most {limit:.3g}. Saved with "
            f"keras {card.keras_version} and keras_pde {card.keras_pde_version}; loaded with keras "
            f"{keras.__version__}, dtype policy {keras.config.dtype_policy().name}."
        )


def _read_array(archive, name, shape):
    """A float32 array of that shape; the header is compared before the numbers are read."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed; expected the format of np.savez")
    with archive.open(name) as member:
        np.lib.format.read_magic(member)
        found, fortran_order, dtype = np.lib.format.read_array_header_1_0(member)
        if (found, fortran_order, dtype) != (shape, False, np.dtype("<f4")):
            raise ValueError(f"{name} is {dtype} {found}; expected float32 {shape}")
        return np.frombuffer(member.read(4 * math.prod(shape)), "<f4").reshape(shape)


def _write(model, staging, card, inputs, logits):
    """Fill the staging folder and check it; returns the complete card."""
    # Only the rebuilt model is saved: Keras would write the given one's optimizer too.
    rebuilt = _build(card)
    try:
        rebuilt.set_weights(model.get_weights())
        rebuilt.save_weights(staging / _WEIGHTS)
        np.savez(staging / _GOLDEN, inputs=inputs, logits=logits)
        card = replace(
            card,
            parameters=rebuilt.count_params(),
            digests={name: _sha256((staging / name).read_bytes()) for name in (_WEIGHTS, _GOLDEN)},
            golden_tolerance=GOLDEN_TOLERANCE,
            keras_version=keras.__version__,
            keras_pde_version=environment.version("keras_pde"),
        )
        (staging / _CARD).write_text(card.to_json() + "\n", encoding="utf-8")
        load_model(staging)
    except ValueError as error:
        raise ValueError(
            f"Received a model that the card's architecture {card.architecture!r} with arguments "
            f"{card.arguments} does not rebuild; expected the plain model that they build. "
            f"Nothing was saved. {error}"
        ) from error
    return card


def _check_free(folder, overwrite):
    if not folder.exists():
        return
    if not overwrite:
        raise ValueError(
            f"Received folder {folder}, which exists; expected a new name, or overwrite=True."
        )
    if not folder.is_dir() or {path.name for path in folder.iterdir()} - {_WEIGHTS, _GOLDEN, _CARD}:
        raise ValueError(
            f"Received overwrite=True for {folder}, which holds other things than a saved model; "
            "expected a folder of which nothing else is lost."
        )


def _flush(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(staging, folder, old, overwrite):
    try:
        if overwrite and folder.exists():
            os.replace(folder, old)
        os.replace(staging, folder)  # refuses a folder that somebody else filled meanwhile
    except BaseException:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        raise
