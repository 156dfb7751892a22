"""The list of published models inside the package: what to choose by, and digests of the cards.

What is loaded by name is what this list describes, wherever the files come from: it has the digest
of each card, and the card those of the weights.
"""

import os
from pathlib import Path

from keras_pde import data, geometry, models, registry
from keras_pde.checks import check_number, optional
from keras_pde.hub.card import DATA_TIERS
from keras_pde.hub.listing import Listing, Listings
from keras_pde.records import from_json, to_json
from keras_pde.registry import unknown_name
from keras_pde.threat import radius, same_radius

PACKAGE_INDEX = Path(__file__).parent.parent / "zoo.json"
# A list of one's own, such as `keras-pde publish --to` writes: a file, never fetched.
OWN_INDEX = "KERAS_PDE_INDEX"


def read_index(path: Path) -> dict[str, Listing]:
    """Name -> listing, sorted by name.

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
        listed = {
            name: Listing.from_dict(values)
            for name, values in from_json(path.read_bytes(), "list of models").items()
        }
        wrong = [name for name, model in listed.items() if model.name != name or not name]
        if wrong:
            raise ValueError(f"Received models of other names under {wrong}; expected their own.")
    except ValueError as error:
        raise ValueError(f"{path} is not a list of models: {error}") from error
    return dict(sorted(listed.items()))


def index_text(listed: dict[str, Listing]) -> str:
    """The file of a list, one field a line, sorted by name."""
    values = {name: listed[name].to_dict() for name in sorted(listed)}
    return to_json(values, "list of models") + "\n"


def published() -> dict[str, Listing]:
    """Name -> listing of every model that can be loaded by name.

    Raises:
        ValueError: the list named by `KERAS_PDE_INDEX` gives a name of the package to another
            model.
    """
    listed = read_index(PACKAGE_INDEX)
    own = os.environ.get(OWN_INDEX)
    if not own:
        return listed
    added = read_index(Path(own).expanduser())
    taken = [name for name, model in added.items() if listed.get(name, model) != model]
    if taken:
        raise ValueError(
            f"Received {OWN_INDEX}={own} with other models under the names {taken} of this "
            "package; expected names of its own."
        )
    return dict(sorted({**listed, **added}.items()))


def list_models(
    dataset: str | None = None,
    norm: str | None = None,
    epsilon: float | str | None = None,
    max_params: int | None = None,
    architecture: str | None = None,
    data_tier: str | None = None,
    min_robust: float | None = None,
) -> Listings:
    """The published models that fit, sorted by name; no network.

    Printed, the list shows those of their measurements that fit.

    Example:

        for model in kp.list_models(dataset="mnist", norm="linf", max_params=100_000):
            print(model.name, model.parameters, model.measurements[0].robust_accuracy)

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
    listed = published().values()
    norm = None if norm is None else geometry.get(norm).name
    epsilon = None if epsilon is None else radius(epsilon)
    min_robust = optional(check_number, min_robust, "min_robust", least=0, most=1)
    max_params = optional(check_number, max_params, "max_params", least=0)
    if architecture not in (None, models.FROM_CONFIG):
        registry.get("model", architecture)
    if data_tier is not None and data_tier not in DATA_TIERS:
        raise unknown_name("data tier", data_tier, DATA_TIERS)
    datasets = sorted({*data.NAMES, *(model.dataset for model in listed)})
    if dataset is not None and dataset not in datasets:
        raise unknown_name("data set", dataset, datasets)

    def fits(row):
        return (
            norm in (None, row.norm)
            and (epsilon is None or same_radius(row.epsilon, epsilon))
            and (min_robust is None or row.robust_accuracy >= min_robust)
        )

    measured = (norm, epsilon, min_robust) != (None, None, None)
    found = [
        model
        for model in listed
        if dataset in (None, model.dataset)
        and architecture in (None, model.architecture)
        and data_tier in (None, model.data_tier)
        and (max_params is None or model.parameters <= max_params)
        and (not measured or any(map(fits, model.measurements)))
    ]
    return Listings(found, fits)
