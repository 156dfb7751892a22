import math
import re
from dataclasses import dataclass
from typing import Any

from keras_pde import geometry
from keras_pde.checks import check_bounds
from keras_pde.records import Checked
from keras_pde.threat import Threat


@dataclass(frozen=True)
class Measurement(Checked):
    """One row of a card: how robust a model is in one threat model, and all that repeats it.

    Robust accuracy is the share of all images that are classified correctly and stay so under
    every attack named: an upper bound. Certified accuracy is the share of which a proof says so: a
    lower bound.

    Example:

        row = Measurement(
            norm="linf", epsilon=0.1, images=1000, clean_accuracy=0.9, clean_interval=(0.88, 0.92),
            robust_accuracy=0.8, robust_interval=(0.77, 0.83), median_distance=0.13,
            attacks=[{"label": "PGD-ce", "config": {"class": "PGD", "norm": "linf", "steps": 100}}],
            seed=0, digest="0" * 64, keras_pde_version="0.1.0", date="2026-01-31",
        )

    Args:
        norm: `"l1" | "l2" | "linf"`, norm of the perturbations.
        epsilon: their largest length, in the units of the images.
        images: number of images: the first ones of the data set's test part.
        clean_accuracy: share in [0, 1].
        clean_interval: (low, high), 95 %, over the draw of test images.
        robust_accuracy: share in [0, 1] of all images.
        robust_interval: (low, high), 95 %.
        median_distance: of the smallest perturbations found, misclassified images counting as 0;
            None if there is none for half of the images.
        attacks: dicts of an attack's `label`, `config` (with its `class`) and `robust_accuracy` on
            its own (None for searches of distances).
        seed: of the attacks.
        digest: SHA-256 of images and labels, see `Report.digest`.
        keras_pde_version: version that measured.
        date: of the measurement, ISO 8601.
        alarms: reasons to distrust the numbers; empty if there are none.
        certified_accuracy: share in [0, 1] of all images; None if nothing was certified.
        certified_interval: (low, high), 95 %; None likewise.
        certificate: how it was proven: a dict of `label` and `config`; None likewise.
        bounds: range of the images, as in `keras_pde.Threat`; None for no limit.

    Raises:
        ValueError: a field has the wrong type or a value outside its range.
    """

    noun = "measurement"

    norm: str
    epsilon: float
    images: int
    clean_accuracy: float
    clean_interval: tuple[float, float]
    robust_accuracy: float
    robust_interval: tuple[float, float]
    median_distance: float | None
    attacks: tuple[dict[str, Any], ...]
    seed: int
    digest: str
    keras_pde_version: str
    date: str
    alarms: tuple[str, ...] = ()
    certified_accuracy: float | None = None
    certified_interval: tuple[float, float] | None = None
    certificate: dict[str, Any] | None = None
    bounds: Any = (0.0, 1.0)

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "bounds", check_bounds(self.bounds))
        self.require("norm", self.norm in geometry.names(), f"one of {geometry.names()}")
        self.require("epsilon", 0 < self.epsilon < math.inf, "a positive length")
        self.require("images", self.images > 0, "at least one image")
        self._require_share("clean")
        self._require_share("robust")
        if self.certified_accuracy is not None:
            self._require_share("certified")
            named = {"label", "config"} <= set(self.certificate or ())
            self.require("certificate", named, "a dict with label and config")
            at_most = self.certified_accuracy <= self.robust_accuracy
            expected = f"at most the attacked {self.robust_accuracy}: attacks have broken the proof"
            self.require("certified_accuracy", at_most, expected)
        at_most = self.robust_accuracy <= self.clean_accuracy
        self.require("robust_accuracy", at_most, f"at most the clean {self.clean_accuracy}")
        distance = self.median_distance
        self.require(
            "median_distance",
            distance is None or 0 <= distance < math.inf,
            "a length, or None if half of the images have none",
        )
        digest = re.fullmatch("[0-9a-f]{64}", self.digest)
        self.require("digest", digest, "a SHA-256 in hexadecimal")
        named = all({"label", "config"} <= set(attack) for attack in self.attacks)
        self.require("attacks", self.attacks and named, "dicts with label and config")

    def _require_share(self, kind):
        share, interval = getattr(self, f"{kind}_accuracy"), getattr(self, f"{kind}_interval")
        self.require(f"{kind}_accuracy", 0 <= share <= 1, "a share in [0, 1]")
        low, high = interval or (1, 0)
        around = 0 <= low <= share <= high <= 1
        self.require(f"{kind}_interval", around, f"(low, high) around {share} in [0, 1]")

    def agrees_with(self, again: "Measurement") -> bool:
        """Whether a repeated measurement lies within the intervals of this one."""
        (low, high), (robust_low, robust_high) = self.clean_interval, self.robust_interval
        return (
            low <= again.clean_accuracy <= high
            and robust_low <= again.robust_accuracy <= robust_high
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields, without those of a certificate where there is none, and the usual bounds."""
        values = super().to_dict()
        absent = self.certified_accuracy is None
        left_out = [k for k in values if absent and k.startswith("certif")]
        left_out += ["bounds"] if self.bounds == (0.0, 1.0) else []
        return {k: v for k, v in values.items() if k not in left_out}

    @property
    def threat(self) -> Threat:
        """The threat model."""
        return Threat(self.norm, self.epsilon, self.bounds)
