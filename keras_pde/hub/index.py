"""The list of published models inside the package: names and complete cards, with the digests.

What is loaded by name is what this list describes, wherever the files come from.
"""

import json
import os
from pathlib import Path

from keras_pde import data, geometry, registry
from keras_pde.hub.card import DATA_TIERS, Card
from keras_pde.records import from_json
from keras_pde.registry import unknown_name
from keras_pde.threat import radius, same_radius

PACKAGE_INDEX = Path(__file__).parent.parent / "zoo.json"
# A list of one's own, such as `keras-pde publish --to` writes: a file, never fetched.
OWN_INDEX = "KERAS_PDE_INDEX"


def read_index(path: Path) -> dict[str, Card]:
    """Name -> card, sorted by name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a list.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Received {path} as list of models, which is no file; expected what `keras-pde "
            "publish` writes."
        )
    try:
        cards = {
            name: Card.from_dict(values)
            for name, values in from_json(path.read_bytes(), "list of models").items()
        }
        wrong = [name for name, card in cards.items() if card.name != name or not name]
        if wrong:
            raise ValueError(f"Received cards of other names under {wrong}; expected their own.")
    except ValueError as error:
        raise ValueError(f"{path} is not a list of models: {error}") from error
    return dict(sorted(cards.items()))


def index_text(cards: dict[str, Card]) -> str:
    """The file of a list, one field a line, sorted by name."""
    values = {name: json.loads(cards[name].to_json()) for name in sorted(cards)}
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def published() -> dict[str, Card]:
    """Name -> card of every model that can be loaded by name.

    Raises:
        ValueError: the list named by `KERAS_PDE_INDEX` gives a name of the package to another
            model.
    """
    cards = read_index(PACKAGE_INDEX)
    own = os.environ.get(OWN_INDEX)
    if not own:
        return cards
    added = read_index(Path(own).expanduser())
    taken = [name for name, card in added.items() if cards.get(name, card) != card]
    if taken:
        raise ValueError(
            f"Received {OWN_INDEX}={own} with other models under the names {taken} of this "
            "package; expected names of its own."
        )
    return dict(sorted({**cards, **added}.items()))


def find(name: str) -> Card:
    """The card of a published model; a `ValueError` gives the nearest name."""
    cards = published()
    if name not in cards:
        raise unknown_name("model", name, cards)
    return cards[name]


def list_models(
    dataset: str | None = None,
    norm: str | None = None,
    epsilon: float | str | None = None,
    max_params: int | None = None,
    architecture: str | None = None,
    data_tier: str | None = None,
    min_robust: float | None = None,
) -> list[Card]:
    """The cards of the published models that fit, sorted by name; no network.

    Example:

        for card in kp.list_models(dataset="mnist", norm="linf", max_params=100_000):
            print(card.name, card.parameters, card.measurements[0].robust_accuracy)

    Args:
        dataset: name of the training data.
        norm: `"l1" | "l2" | "linf"`: models measured in that norm.
        epsilon: models measured at that radius, in the units of the images: a number, or "8/255".
        max_params: largest number of parameters.
        architecture: name of a registered model.
        data_tier: training data beyond the data set: `"none" | "synthetic" | "real"`.
        min_robust: least robust accuracy, in [0, 1], in a measurement that fits norm and epsilon.

    Raises:
        ValueError: an argument names nothing that exists.
    """
    cards = published().values()
    norm = None if norm is None else geometry.get(norm).name
    epsilon = None if epsilon is None else radius(epsilon)
    if architecture is not None:
        registry.get("model", architecture)
    if data_tier is not None and data_tier not in DATA_TIERS:
        raise unknown_name("data tier", data_tier, DATA_TIERS)
    datasets = sorted({*data.NAMES, *(card.dataset for card in cards)})
    if dataset is not None and dataset not in datasets:
        raise unknown_name("data set", dataset, datasets)

    def fits(row):
        return (
            norm in (None, row.norm)
            and (epsilon is None or same_radius(row.epsilon, epsilon))
            and (min_robust is None or row.robust_accuracy >= min_robust)
        )

    measured = (norm, epsilon, min_robust) != (None, None, None)
    return [
        card
        for card in cards
        if dataset in (None, card.dataset)
        and architecture in (None, card.architecture)
        and data_tier in (None, card.data_tier)
        and (max_params is None or card.parameters <= max_params)
        and (not measured or any(map(fits, card.measurements)))
    ]
