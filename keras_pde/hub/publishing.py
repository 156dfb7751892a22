"""From a finished run to a published model: its folder, the list of models, the boards."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from keras_pde import files
from keras_pde.hub import board, index, load
from keras_pde.hub.card import Card
from keras_pde.hub.folder import (
    CARD,
    WEIGHTS,
    check_free,
    exchanged,
    listed_card,
    load_folder,
    read_card,
    save_model,
)
from keras_pde.hub.index import index_text, read_index
from keras_pde.hub.listing import Listing

MODEL_LIMIT, TOTAL_LIMIT = 16_000_000, 36_000_000  # bytes of weights in the repository
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
            name: listed_card(listing, self.models / name / CARD)
            for name, listing in self.listed().items()
        }

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
    check_free(target, overwrite=True)
    place.models.mkdir(parents=True, exist_ok=True)
    with files.staging(place.models, ".publish-") as scratch:
        made = scratch / "model"
        card = save_model(model, made, card, weights=weights)
        if place.limited:
            _check_size(card, place.cards())
        added = Listing.of((made / CARD).read_bytes())
        # Read again: another process may have published meanwhile.
        text = index_text({**place.listed(), card.name: added})
        place.index.parent.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        with exchanged(made, target, overwrite=True):
            files.write(place.index, text)
    place.write_boards()
    return card


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
