"""The card of a saved model: one typed list of fields, kept as JSON beside the weights."""

import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, get_args, get_origin

import numpy as np

from keras_pde.registry import unknown_name

SCHEMA = 1

# Share of the largest golden logit. Nets of 6 to 40 layers: TensorFlow against JAX on a CPU differ
# by up to 1e-6, operands rounded as TF32 rounds them on GPUs by up to 1e-3, swapped layers by
# about 1.
GOLDEN_TOLERANCE = 0.01
_MAX_TOLERANCE = 0.05
_FILLED = {
    "parameters",
    "digests",
    "golden_tolerance",
    "keras_version",
    "keras_pde_version",
    "schema",
}


@dataclass(frozen=True)
class Card:
    """What a reader must know of a saved model, and what the loader checks.

    Example:

        card = Card(
            architecture="mlp", arguments={"hidden": [64]}, title="A small MLP", dataset="mnist",
            input_shape=(28, 28, 1), classes=[str(digit) for digit in range(10)], licence="MIT",
        )
        assert Card.from_json(card.to_json()) == card

    Args:
        architecture: name under the registry's kind `"model"`.
        arguments: its keyword arguments; values that JSON can hold.
        title: one line.
        dataset: name of the training data.
        input_shape: shape of one example, without the batch axis.
        classes: names of the classes, in the order of the logits.
        licence: of the weights, an SPDX identifier where there is one.
        description: what the model is for, and what it is not for.
        bounds: range of the inputs; only (0, 1) exists.
        layout: of images; only `"NHWC"` exists.
        caveats: known failures and limits, one sentence each.
        metrics: measured numbers, for example those of an evaluation.
        provenance: how the model was made: seed, epochs, versions, hardware, date.
        parameters: number of parameters. `save_model` fills this and the fields below.
        digests: SHA-256 of the weights file and of the golden file.
        golden_tolerance: largest accepted difference from the golden logits, as a share of the
            largest of them.
        keras_version: version of Keras that saved the model.
        keras_pde_version: version of keras_pde that saved the model.
        schema: version of this list of fields.

    Raises:
        ValueError: a field has the wrong type or a value outside its range.
    """

    architecture: str
    arguments: dict[str, Any]
    title: str
    dataset: str
    input_shape: tuple[int, ...]
    classes: tuple[str, ...]
    licence: str
    description: str = ""
    bounds: tuple[float, ...] = (0.0, 1.0)
    layout: str = "NHWC"
    caveats: tuple[str, ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    parameters: int = 0
    digests: dict[str, str] = field(default_factory=dict)
    golden_tolerance: float = GOLDEN_TOLERANCE
    keras_version: str = ""
    keras_pde_version: str = ""
    schema: int = SCHEMA

    def __post_init__(self):
        for item in fields(self):
            value, kind = getattr(self, item.name), get_origin(item.type) or item.type
            if kind is tuple and isinstance(value, (list, tuple)):
                object.__setattr__(self, item.name, tuple(value))
                valid = all(_is(entry, get_args(item.type)[0]) for entry in value)
            else:
                valid = _is(value, kind)
            if not valid:
                self._refuse(item.name, _type_name(item.type))
        if self.bounds != (0, 1):
            self._refuse("bounds", "(0, 1); put any other normalisation inside the model")
        if self.layout != "NHWC":
            self._refuse("layout", "'NHWC'")
        if not self.input_shape or min(self.input_shape) < 1:
            self._refuse("input_shape", "positive sizes, without the batch axis")
        if not 0 < self.golden_tolerance <= _MAX_TOLERANCE:
            self._refuse("golden_tolerance", f"a number in (0, {_MAX_TOLERANCE}]")

    def _refuse(self, name, expected):
        value = getattr(self, name)
        raise ValueError(f"Received a card with {name}={value!r}; expected {expected}.")

    def to_json(self) -> str:
        """The card as JSON text; a `ValueError` says what JSON cannot hold."""
        try:
            return json.dumps(
                asdict(self), indent=2, ensure_ascii=False, allow_nan=False, default=_plain_number
            )
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Received a card that JSON cannot hold: {error}; expected strings, finite numbers,"
                " lists and dicts."
            ) from error

    @classmethod
    def from_json(cls, text: str | bytes) -> "Card":
        """The card of a JSON text.

        Args:
            text: JSON with every field of `Card` and no other.

        Raises:
            ValueError: not JSON, a newer schema, an unknown or missing field, a wrong type.
        """
        try:
            values = json.loads(text, parse_constant=_not_a_number)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"Received a card that is not valid JSON: {error}.") from error
        if not isinstance(values, dict):
            raise ValueError(f"Received a card that is a {type(values).__name__}; expected a dict.")
        if values.get("schema", SCHEMA) != SCHEMA:  # first, as other schemas have other fields
            raise ValueError(
                f"Received a card of schema {values['schema']!r}; expected {SCHEMA}. A newer card "
                "needs a newer keras_pde."
            )
        names = [item.name for item in fields(cls)]
        _check_names(values, names, required=names)
        return cls(**values)

    @classmethod
    def from_user(cls, values: dict[str, Any]) -> "Card":
        """The card of a dict of fields, without those that `save_model` fills."""
        own = [item for item in fields(cls) if item.name not in _FILLED]
        required = [i.name for i in own if i.default is MISSING and i.default_factory is MISSING]
        _check_names(values, [item.name for item in own], required)
        return cls(**values)


def _is(value, kind):
    """`isinstance` for JSON: a whole number is a float too, and True is not a number."""
    if kind is float:
        kind = (int, float)
    return isinstance(value, kind) and not isinstance(value, bool)


def _type_name(kind):
    return kind.__name__ if isinstance(kind, type) else str(kind)


def _plain_number(value):
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__}")


def _not_a_number(constant):
    raise ValueError(f"{constant} is not a number in JSON")


def _check_names(values, names, required):
    for name in values:
        if name not in names:
            raise unknown_name("field of a card", name, names)
    missing = [name for name in required if name not in values]
    if missing:
        raise ValueError(f"Received a card without {missing}; expected the fields {required}.")
