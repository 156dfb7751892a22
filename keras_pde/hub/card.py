import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from keras_pde.evaluation.measurement import Measurement
from keras_pde.records import Checked, check_names, from_json

SCHEMA = 2

DATA_TIERS = ("none", "synthetic", "real")
STORAGE = ("float32", "float16", "none")

# Share of the largest golden logit. Nets of 6 to 40 layers: TensorFlow against JAX on a CPU differ
# by up to 1e-6, operands rounded as TF32 rounds them on GPUs by up to 1e-3, swapped layers by
# about 1.
GOLDEN_TOLERANCE = 0.01
_MAX_TOLERANCE = 0.05
_NAME = "[A-Za-z0-9][A-Za-z0-9_.-]*"
_FILLED = {
    "weights",
    "parameters",
    "multiply_adds",
    "digests",
    "sizes",
    "golden_tolerance",
    "keras_version",
    "keras_pde_version",
    "schema",
}


@dataclass(frozen=True, repr=False)
class Card(Checked):
    """What a reader must know of a saved model, and what the loader checks.

    Example:

        card = Card(
            architecture="mlp", arguments={"hidden": [64]}, title="A small MLP", dataset="mnist",
            input_shape=(28, 28, 1), classes=tuple("0123456789"), licence="MIT",
        )
        Card.from_json(card.to_json()) == card

    Args:
        architecture: name under the registry's kind `"model"`, or `"from_config"`.
        arguments: its keyword arguments; values that JSON can hold.
        title: one line.
        dataset: name of the training data.
        input_shape: shape of one example, without the batch axis.
        classes: names of the classes, in the order of the logits.
        licence: of the weights, an SPDX identifier where there is one.
        name: under which the model is published, such as `"mnist/linf-0.3/small_cnn"`: words of
            letters, digits, `_`, `.` and `-`, between slashes; `""` for a private one.
        objective: what the training minimised, in words or as the objective's `repr`.
        description: what the model is for, and what it is not for.
        data_tier: training data beyond the data set: `"none" | "synthetic" | "real"`.
        bounds: range of the inputs; only (0, 1) exists.
        layout: of images; only `"NHWC"` exists.
        caveats: known failures and limits, one sentence each.
        measurements: what was measured, one `Measurement` a threat model.
        recipe: the recipe as it was run.
        provenance: how the model was made: seed, commit, minutes, versions, hardware, date.
        weights: how the weights are stored: `"float32" | "float16" | "none"` (a card of
            measurements only). `save_model` fills this and the fields below.
        parameters: number of parameters.
        multiply_adds: multiply-accumulate operations of one example's forward pass; 0 if unknown.
        digests: SHA-256 of the weights file and of the golden file.
        sizes: their bytes.
        golden_tolerance: largest accepted difference from the golden logits, as a share of the
            largest of them.
        keras_version: version of Keras that saved the model.
        keras_pde_version: version of keras_pde that saved the model.
        schema: version of this list of fields.

    Raises:
        ValueError: a field has the wrong type or a value outside its range.
    """

    noun = "card"

    architecture: str
    arguments: dict[str, Any]
    title: str
    dataset: str
    input_shape: tuple[int, ...]
    classes: tuple[str, ...]
    licence: str
    name: str = ""
    objective: str = ""
    description: str = ""
    data_tier: str = "none"
    bounds: tuple[float, float] = (0.0, 1.0)
    layout: str = "NHWC"
    caveats: tuple[str, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    recipe: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    weights: str = "float32"
    parameters: int = 0
    multiply_adds: int = 0
    digests: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    golden_tolerance: float = GOLDEN_TOLERANCE
    keras_version: str = ""
    keras_pde_version: str = ""
    schema: int = SCHEMA

    def __repr__(self):
        rows = "; ".join(
            f"{m.norm} {m.epsilon:.4g}: {100 * m.robust_accuracy:.1f} %" for m in self.measurements
        )
        label = self.name or self.title
        return f"Card({label!r}, {self.architecture}, {self.parameters} parameters, {rows or '-'})"

    def __post_init__(self):
        if isinstance(self.measurements, (list, tuple)):
            rows = [
                Measurement.from_dict(m) if isinstance(m, dict) else m for m in self.measurements
            ]
            object.__setattr__(self, "measurements", tuple(rows))
        super().__post_init__()
        self.require(
            "bounds", self.bounds == (0, 1), "(0, 1); put any other normalisation inside the model"
        )
        self.require("layout", self.layout == "NHWC", "'NHWC'")
        self.require(
            "input_shape",
            self.input_shape and min(self.input_shape) > 0,
            "positive sizes, without the batch axis",
        )
        self.require(
            "golden_tolerance",
            0 < self.golden_tolerance <= _MAX_TOLERANCE,
            f"a number in (0, {_MAX_TOLERANCE}]",
        )
        self.require("data_tier", self.data_tier in DATA_TIERS, f"one of {DATA_TIERS}")
        self.require("weights", self.weights in STORAGE, f"one of {STORAGE}")
        check_name(self)

    def to_dict(self) -> dict[str, Any]:
        """The fields; measurements are dicts too."""
        return {**super().to_dict(), "measurements": [m.to_dict() for m in self.measurements]}

    @classmethod
    def from_json(cls, text: str | bytes) -> "Card":
        """The card of a JSON text.

        Args:
            text: JSON with every field of `Card` and no other.

        Raises:
            ValueError: not JSON, another schema, an unknown or missing field, a wrong type.
        """
        return cls.from_dict(from_json(text, "card"))

    @classmethod
    def from_dict(cls, values: Any) -> "Card":
        """The card of a dict with every field of `Card` and no other."""
        schema = values.get("schema", SCHEMA) if isinstance(values, dict) else SCHEMA
        if schema != SCHEMA:  # first, as other schemas have other fields
            raise ValueError(
                f"Received a card of schema {schema!r}; expected {SCHEMA}. A newer card needs a "
                "newer keras_pde; save an older model again."
            )
        card = super().from_dict(values)
        check_names(cls, values, [item.name for item in dataclasses.fields(cls)], complete=True)
        return card

    @classmethod
    def from_user(cls, values: dict[str, Any]) -> "Card":
        """The card of a dict of fields, without those that `save_model` fills."""
        check_names(cls, values, [f.name for f in dataclasses.fields(cls) if f.name not in _FILLED])
        return cls(**values)


def check_name(record):
    """Refuses a name that is no path within a folder: with an empty part, '..', or absolute."""
    record.require(
        "name",
        not record.name or re.fullmatch(rf"{_NAME}(/{_NAME})*", record.name),
        "words of letters, digits, '_', '.' and '-' between slashes, such as "
        "'mnist/linf-0.3/small_cnn'",
    )
