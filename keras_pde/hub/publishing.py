"""From a finished run to a published model: its folder, the list of models, the boards."""

import contextlib
import functools
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from keras_pde import files
from keras_pde.files import flush
from keras_pde.hub import board, index, load
from keras_pde.hub.card import Card
from keras_pde.hub.download import beside
from keras_pde.hub.folder import (
    CARD,
    FILES,
    WEIGHTS,
    check_free,
    listed_card,
    load_files,
    load_folder,
    read_card,
    save_model,
)
from keras_pde.hub.index import index_text, read_index
from keras_pde.hub.listing import Listing
from keras_pde.hub.load import stored
from keras_pde.registry import unknown_name

MODEL_LIMIT, TOTAL_LIMIT = 16_000_000, 36_000_000  # bytes of weights in the repository
_STAGING = ".publish-"
_NEEDED = ("name", "objective", "measurements", "recipe", "provenance")


@dataclass(frozen=True)
class Place:
    """Where models are published.

    Attributes:
        models: folder of the models' folders.
        index: list of the models.
        board: generated page of all measurements.
        readme: document with a generated table, or None.
        limited: whether the weights' sizes are limited, as in the repository.
    """

    models: Path
    index: Path
    board: Path
    readme: Path | None = None
    limited: bool = False

    @classmethod
    def of(cls, folder: str | Path | None) -> "Place":
        """A folder of one's own, or the clone."""
        return cls.clone() if folder is None else cls.folder(folder)

    @classmethod
    def clone(cls) -> "Place":
        """The repository that the package is imported from."""
        root = load.SAVED_MODELS.parent
        if not (root / "setup.cfg").is_file():
            raise ValueError(
                f"Received no folder to publish to, and {root} is no clone of keras_pde; expected "
                "one of them: pass --to DIR."
            )
        zoo = root / "zoo" / "README.md"
        return cls(load.SAVED_MODELS, index.PACKAGE_INDEX, zoo, root / "README.md", limited=True)

    @classmethod
    def folder(cls, folder: str | Path) -> "Place":
        """A folder of one's own; served over HTTP it is a mirror."""
        folder = Path(folder).expanduser().resolve()
        return cls(folder, folder / "zoo.json", folder / "README.md")

    def listed(self) -> dict[str, Listing]:
        return read_index(self.index) if self.index.exists() else {}

    def cards(self) -> dict[str, Card]:
        """Name -> card of every listed model."""
        return {
            name: listed_card(listing, stored(self.models / name, CARD, listing))
            for name, listing in self.listed().items()
        }

    @contextlib.contextmanager
    def locked(self):
        """Within it no other process publishes here; what killed ones left is gone."""
        self.models.mkdir(parents=True, exist_ok=True)
        with files.locked(self.models):
            for leftover in self.models.glob(f"{_STAGING}*{files.UNFINISHED}"):
                shutil.rmtree(leftover, ignore_errors=True)
            yield

    def write_index(self, listed: dict[str, Listing]) -> None:
        """Replaces the list at once."""
        files.write(self.index, index_text(listed))

    def write_boards(self) -> None:
        """Generates the documents anew from the list."""
        cards = list(self.cards().values())
        texts = {self.board: board.page(cards)}
        if self.readme is not None:
            readme = self.readme.read_text(encoding="utf-8")
            texts[self.readme] = board.with_table(readme, cards)
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write(path, text)


def publish(
    run: str | Path,
    name: str | None = None,
    to: str | Path | None = None,
    weights: str = "float32",
    overwrite: bool = False,
) -> Card:
    """Publish the model of a run: copy it, list it, and draw the boards anew.

    The list is written last and at once: a model that is not in it is not published, and one whose
    publication was interrupted can be published again.

    Example:

        publish("runs/mnist", name="mnist/linf-0.3/small_cnn", to="hub", weights="float16")

    Args:
        run: folder that `keras-pde train` wrote, or a folder that `save_model` wrote.
        name: under which to publish; default the card's.
        to: folder to publish to; default the clone that the package is imported from.
        weights: `"float32" | "float16" | "none"`, how to store them.
        overwrite: replace a published model of that name.

    Returns:
        The published card.

    Raises:
        ValueError: the run has no model, its card is incomplete, the name is taken, or the weights
            are too large for the repository.
        OSError: the disk is full or not writable; what was published before is unchanged.
    """
    place = Place.of(to)
    run = Path(run)
    folder = run / "model" if (run / "model").is_dir() else run
    card = read_card(folder)
    card = replace(card, name=name or card.name)
    _check_complete(card, place.listed(), overwrite)
    model = load_folder(folder)
    if weights == "float16" and card.weights == "float32" and not _is_half(model):
        rounded = "The weights were rounded to float16 after the measurements."
        card = replace(card, caveats=(*card.caveats, rounded))
    target = place.models / card.name
    with place.locked():
        check_free(target, overwrite=True)
        with files.staging(place.models, _STAGING) as scratch:
            made = scratch / "model"
            card = save_model(model, made, card, weights=weights)
            if place.limited:
                _check_size(card, place.cards())
            added = Listing.of((made / CARD).read_bytes())
            place.index.parent.mkdir(parents=True, exist_ok=True)
            with _replaced(made, target):
                place.write_index({**place.listed(), card.name: added})
        place.write_boards()
    return card


def unpublish(name: str, to: str | Path | None = None) -> None:
    """Takes a model out of the list, then deletes its folder, and draws the boards anew.

    Args:
        name: under which it is published.
        to: folder that it was published to; default the clone that the package is imported from.

    Raises:
        ValueError: no model is published under that name there.
    """
    place = Place.of(to)
    with place.locked():
        listed = place.listed()
        if name not in listed:
            raise unknown_name("model", name, listed)
        place.write_index({other: row for other, row in listed.items() if other != name})
        folder = place.models / name
        for path in [p for p in (folder.iterdir() if folder.is_dir() else ()) if _is_ours(p)]:
            path.unlink()
        while folder != place.models and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent
        place.write_boards()


def check(to: str | Path | None = None) -> dict[str, str]:
    """What is wrong with each published model, "" for nothing: name -> text.

    Each is loaded: digests, shapes of the weights and golden logits are compared.

    Args:
        to: folder that they were published to; default the clone.
    """
    place, found = Place.of(to), {}
    for name, listing in place.listed().items():
        try:
            card = listed_card(listing, stored(place.models / name, CARD, listing))
            if card.weights != "none":
                load_files(card, functools.partial(stored, place.models / name, described=card))
            found[name] = ""
        except (OSError, ValueError) as error:
            found[name] = str(error)
    return found


@contextlib.contextmanager
def _replaced(made, target):
    """Puts files into a published model's folder, so that it can be loaded at any moment.

    They come under names with their digest, which are looked for where a file is not the listed
    one. Within it these stand beside the old ones; at the end they take their places.
    """
    target.mkdir(parents=True, exist_ok=True)
    new = {path: target / beside(path.name, files.digest(path)) for path in made.iterdir()}
    try:
        for path, place in new.items():
            os.replace(path, place)
        flush(target)
        yield
    except BaseException:
        for place in new.values():
            place.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there are the old ones
            target.rmdir()
        raise
    for path, place in new.items():
        os.replace(place, target / path.name)
    names = {path.name for path in new}
    for path in target.iterdir():
        if _is_ours(path) and path.name not in names:  # a killed process's, or weights no more
            path.unlink()


def _is_ours(path):
    return path.is_file() and path.name.startswith((CARD, *FILES))


def _is_half(model):
    """Whether float16 holds all weights exactly, as those of an offline training."""
    with np.errstate(over="ignore"):
        return all(np.array_equal(w, w.astype("float16")) for w in model.get_weights())


def _check_complete(card, cards, overwrite):
    missing = [name for name in _NEEDED if not getattr(card, name)]
    if missing:
        raise ValueError(
            f"Received a card without {missing}; expected a complete one to publish. "
            "`keras-pde train` writes them from a recipe with [[evaluation]]; --name gives a name."
        )
    if card.name in cards and not overwrite:
        raise ValueError(
            f"Received the name {card.name!r}, which is published; expected a new one, or "
            "--overwrite."
        )
    nested = [
        name
        for name in cards
        if name.startswith(f"{card.name}/") or card.name.startswith(f"{name}/")
    ]
    if nested:
        raise ValueError(
            f"Received the name {card.name!r} beside {nested}; expected one whose folder is not "
            "within another model's."
        )


def _check_size(card, cards):
    others = sum(c.sizes.get(WEIGHTS, 0) for c in cards.values() if c.name != card.name)
    size = card.sizes.get(WEIGHTS, 0)
    if size > MODEL_LIMIT or size + others > TOTAL_LIMIT:
        raise ValueError(
            f"Received weights of {size / 1e6:.1f} MB beside {others / 1e6:.1f} MB of other "
            f"models; expected at most {MODEL_LIMIT / 1e6:g} MB, and {TOTAL_LIMIT / 1e6:g} MB in "
            "all. Publish them with --float16 or --no-weights, or to a folder with --to."
        )
