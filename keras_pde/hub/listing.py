import re
from dataclasses import dataclass

from keras_pde.files import sha256
from keras_pde.hub.board import count
from keras_pde.hub.card import Card, check_name
from keras_pde.records import Checked, preformatted
from keras_pde.text import columns, percent
from keras_pde.threat import Threat

CARD = "card.json"


@dataclass(frozen=True)
class Headline(Checked):
    """What a measurement of a card found, in short.

    Attributes:
        norm, epsilon: the threat model, of images in [0, 1].
        images: how many were measured.
        clean_accuracy, robust_accuracy: shares of them, the latter an upper bound.
        certified_accuracy: a lower bound; None where nothing was certified.
    """

    noun = "headline"

    norm: str
    epsilon: float
    images: int
    clean_accuracy: float
    robust_accuracy: float
    certified_accuracy: float | None = None

    @property
    def threat(self) -> Threat:
        """Norm and length of the perturbation."""
        return Threat(self.norm, self.epsilon)


@dataclass(frozen=True)
class Listing(Checked):
    """A model in the list of published ones: what to choose by, and the digest of its card.

    The card itself, `keras_pde.hub.load_card(listing.name)`, lies beside the weights and holds
    their digests.

    Attributes:
        name, title, dataset, architecture, parameters, data_tier, weights: as in `Card`.
        measurements: a `Headline` for each of the card's.
        digests, sizes: SHA-256 and bytes of the card's file.
    """

    noun = "listed model"

    name: str
    title: str
    dataset: str
    architecture: str
    parameters: int
    data_tier: str
    weights: str
    measurements: tuple[Headline, ...]
    digests: dict[str, str]
    sizes: dict[str, int]

    def __post_init__(self):
        rows = tuple(Headline.from_dict(m) if isinstance(m, dict) else m for m in self.measurements)
        object.__setattr__(self, "measurements", rows)
        super().__post_init__()
        check_name(self)
        # A digest becomes a path, within the cache.
        named = self.digests.keys() == {CARD}
        sound = named and re.fullmatch("[0-9a-f]{64}", self.digests[CARD])
        self.require("digests", sound, "the SHA-256 of the card's file, 64 hexadecimal digits")
        same = self.sizes.keys() == self.digests.keys() and min(self.sizes.values()) > 0
        self.require("sizes", same, "the bytes of the same file")

    @classmethod
    def of(cls, data: bytes) -> "Listing":
        """The listing of a card, whose file holds these bytes."""
        card = Card.from_json(data)
        same = ("name", "title", "dataset", "architecture", "parameters", "data_tier", "weights")
        rows = [
            Headline(*(getattr(m, item) for item in Headline.__dataclass_fields__))
            for m in card.measurements
        ]
        return cls(
            **{item: getattr(card, item) for item in same},
            measurements=tuple(rows),
            digests={CARD: sha256(data)},
            sizes={CARD: len(data)},
        )


class Listings(list):
    """Listed models; printed, a table with one line a measurement.

    Args:
        models: `Listing` objects.
        fits: function of a measurement: whether it is printed; None for all.
    """

    def __init__(self, models=(), fits=None):
        super().__init__(models)
        self.fits = fits or (lambda row: True)

    def __str__(self) -> str:
        rows = [("model", "parameters", "clean", "threat", "robust", "images", "weights")]
        for model in self:
            for row in filter(self.fits, model.measurements):
                rows.append(
                    (
                        model.name,
                        count(model.parameters),
                        percent(row.clean_accuracy),
                        str(row.threat),
                        percent(row.robust_accuracy),
                        str(row.images),
                        model.weights,
                    )
                )
        return "\n".join(columns(rows)) if self else "No published model fits."

    def _repr_html_(self) -> str:
        return preformatted(str(self))
