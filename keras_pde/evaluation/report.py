"""The measured robustness of one model on one set of images."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from keras_pde import figures, files
from keras_pde.checks import check_bounds
from keras_pde.evaluation import tables
from keras_pde.evaluation.comparison import Comparison
from keras_pde.evaluation.corruption import NoiseRun
from keras_pde.evaluation.measurement import Measurement
from keras_pde.evaluation.tables import interval
from keras_pde.records import ToJSON, plain
from keras_pde.threat import TOLERANCE, radius, same_radius, within

SCHEMA = 1


@dataclass(frozen=True)
class AttackRun:
    """One attack, at one epsilon (`None` for minimal distances), on all images.

    `robust_accuracy` is the attack's own, on all images, not combined with other attacks.
    """

    attack: str
    config: dict
    epsilon: float | None
    robust_accuracy: float
    forward_passes: int
    backward_passes: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Report(ToJSON):
    """What `evaluate` found. Distances and accuracies are upper bounds of the true ones.

    Attributes:
        name: the model's name in tables and plots.
        norm: norm of the perturbations.
        bounds: range of the images, `None` for no limit.
        epsilons: the radii asked for, ascending.
        distance: `(images,)` smallest perturbation found by any attack, in `norm`; 0 if the image
            is misclassified, infinite if nothing was found.
        runs: one `AttackRun` for each attack and epsilon.
        alarms: reasons to distrust the numbers; empty if there are none.
        digest: of images and labels; only reports of the same images can be compared.
        environment: versions, hardware, date.
        certified: `(images,)` lengths in `norm` up to which it is proven that the image is
            classified correctly, 0 where nothing is; None if no proof was tried. A lower bound,
            beside `distance`, which is an upper one.
        certificate: how it was proven: a dict of `label` and `config`.
        adversarials: closest adversarial images, while in memory; not in the JSON file.
        notes: what to know when reading the numbers, and no reason to distrust them.
        success: when an attack had succeeded, as `evaluate` was told.
        examples: what is counted: "images", or "examples" of something else.
        noise: one `NoiseRun` for each kind and amount of random noise.
    """

    name: str
    norm: str
    bounds: tuple | None
    epsilons: tuple[float, ...]
    distance: np.ndarray
    runs: tuple[AttackRun, ...]
    alarms: tuple[str, ...]
    digest: str
    environment: dict
    certified: np.ndarray | None = None
    certificate: dict | None = None
    adversarials: dict[str, np.ndarray] | None = field(default=None, repr=False, compare=False)
    notes: tuple[str, ...] = ()
    success: str = "misclassified"
    examples: str = "images"
    noise: tuple[NoiseRun, ...] = ()

    def __post_init__(self):
        for name in ("distance", "certified"):
            values = getattr(self, name)
            if values is not None and np.isnan(values).any():
                raise ValueError(f"Received a report with NaN in `{name}`; expected lengths.")
        if self.certified is None:
            return
        # A distance is measured with a rounding, which breaks no proof.
        broken = np.flatnonzero(self.distance < self.certified * (1 - TOLERANCE))
        if len(broken):
            i = broken[0]
            raise ValueError(
                f"Received a certificate that {len(broken)} attacks have broken: image {i} is "
                f"certified to {self.certified[i]:g}, and misclassified at {self.distance[i]:g}."
            )

    def __eq__(self, other) -> bool:
        return isinstance(other, Report) and self.to_json() == other.to_json()

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.distance)

    @property
    def clean_accuracy(self) -> float:
        """Share of images classified correctly."""
        return float(np.mean(self.distance > 0))

    def robust_accuracy(self, epsilon: float) -> float:
        """Share of all images that are correct and for which no attack found a perturbation
        of length `epsilon` or less."""
        return float(np.mean(self.robust(epsilon)))

    def robust(self, epsilon: float) -> np.ndarray:
        """Which images are correct and stay so, as far as the attacks found."""
        if isinstance(epsilon, str):
            epsilon = radius(epsilon, self.bounds)
        if not epsilon >= 0:
            raise ValueError(f"Received epsilon={epsilon!r}; expected a length of at least 0.")
        return (self.distance > 0) & ~within(self.distance, epsilon)

    def certified_accuracy(self, epsilon: float) -> float | None:
        """Share of all images of which it is proven that they are correct and stay so: a lower
        bound. None if no proof was tried."""
        if self.certified is None:
            return None
        return float(np.mean(self.certified >= epsilon)) if epsilon else self.clean_accuracy

    def certified_interval(self, epsilon: float) -> tuple[float, float] | None:
        """95 % interval of the certified accuracy, over the draw of images."""
        share = self.certified_accuracy(epsilon)
        return None if share is None else interval(round(share * self.count), self.count)

    def measurement(self, epsilon: float, seed: int) -> Measurement:
        """The row of a card that states what was found at one radius.

        Args:
            epsilon: one of the radii of the report.
            seed: of the attacks.

        Raises:
            ValueError: the report was not made at that radius, or is not about classes.

        Example:

        >>> report = kp.evaluate(model, x, y, norm="linf", epsilons=[0.1], seed=0)
        >>> row = report.measurement(0.1, seed=0)
        """
        if self.success != "misclassified":
            raise ValueError(
                f"Received a report with success={self.success!r}; expected 'misclassified', which "
                "the accuracies of cards are about."
            )
        length = radius(epsilon, self.bounds)
        epsilon = next((own for own in self.epsilons if same_radius(own, length)), None)
        if epsilon is None:
            raise ValueError(
                f"Received epsilon={length}; expected one of the report's, {self.epsilons}."
            )
        median = self.distance_quantile()
        return Measurement(
            norm=self.norm,
            epsilon=epsilon,
            images=self.count,
            clean_accuracy=self.clean_accuracy,
            clean_interval=self.interval(),
            robust_accuracy=self.robust_accuracy(epsilon),
            robust_interval=self.interval(epsilon),
            median_distance=median if median < float("inf") else None,
            attacks=tuple(_row(run) for run in self.runs if run.epsilon in (None, epsilon)),
            seed=seed,
            digest=self.digest,
            keras_pde_version=self.environment["keras_pde"],
            date=self.environment["date"],
            alarms=self.alarms,
            certified_accuracy=self.certified_accuracy(epsilon),
            certified_interval=self.certified_interval(epsilon),
            certificate=self.certificate,
            bounds=self.bounds,
        )

    def interval(self, epsilon: float = 0.0) -> tuple[float, float]:
        """95 % interval of the robust accuracy (clean accuracy for 0), over the draw of images."""
        return interval(np.sum(self.robust(epsilon)), self.count)

    def distance_quantile(self, q: float = 0.5) -> float:
        """Quantile of the distance over all images, misclassified ones counting as 0."""
        return float(np.quantile(self.distance, q, method="inverted_cdf"))

    @property
    def seconds(self) -> float:
        """Wall time of all attacks."""
        return sum(run.seconds for run in self.runs)

    # Reading

    def table(self) -> str:
        """Readable summary: accuracies with intervals, distances, attacks, noise, alarms, notes."""
        return tables.report(self)

    def __str__(self) -> str:
        return self.table()

    def plot(self, *others: "Report", path=None, title: str | None = None):
        """Error curves, % error against adversarial size, one labelled curve a report.

        What is certified is a dashed line: the true error is at most that.

        Args:
            *others: reports in the same norm, drawn beside this one.
            path: image file, whose suffix says the format; None writes none.
            title: heading; default names norm and number of images.

        Returns:
            A Matplotlib `Figure`.

        Raises:
            ValueError: a report is in another norm.
        """
        reports = (self, *others)
        strangers = [r.name for r in others if r.norm != self.norm]
        if strangers:
            raise ValueError(f"Received reports {strangers} in another norm than {self.norm!r}.")
        figure, (axes,) = figures.new(6.4, 4.2)
        finite = [r.distance[np.isfinite(r.distance)] for r in reports]
        reach = max([float(np.quantile(d, 0.98)) for d in finite if len(d)], default=0.0)
        reach = max(reach, *(e for r in reports for e in r.epsilons), 1e-3)
        for report in reports:
            sizes = np.concatenate([[0.0], np.sort(report.distance[report.distance <= reach])])
            errors = [100 * float(np.mean(report.distance <= s)) for s in sizes]
            axes.step([*sizes, reach], [*errors, errors[-1]], where="post", label=report.name)
            if report.certified is not None:
                color = axes.lines[-1].get_color()
                sizes = np.concatenate([[0.0], np.sort(report.certified), [reach]])
                errors = [100 * (1 - report.certified_accuracy(s)) for s in sizes]
                axes.step(sizes, errors, "--", where="pre", color=color)
        for epsilon in self.epsilons:
            axes.axvline(epsilon, color="0.85", linewidth=0.8, zorder=0)
        axes.set(xlim=(0, reach), ylim=(0, 100), xlabel=f"adversarial size ({self.norm})")
        axes.set(ylabel="% error", title=title or f"{self.count} {self.examples}")
        axes.legend(loc="lower right")
        return figures.done(figure, path)

    def compare(self, other: "Report", quantile: float = 0.5) -> Comparison:
        """Paired comparison with another report on the same images; see `Comparison`.

        Args:
            other: a report in the same norm on the same images.
            quantile: in (0, 1), at which distances are compared; 0.5 for medians.
        """
        return Comparison.of(self, other, quantile)

    # Files

    def to_dict(self) -> dict:
        """All but the images, as JSON has it; infinite distances become None."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del values["adversarials"]
        for name in ("runs", "noise"):
            values[name] = [dataclasses.asdict(run) for run in values[name]]
        # What an attack of one's own is made with may be anything: it is shown, not read again.
        return json.loads(json.dumps(plain({"schema": SCHEMA, **values}), default=str))

    @classmethod
    def from_json(cls, source) -> "Report":
        """The report from a file written by `to_json`, or from its text."""
        source = source.decode() if isinstance(source, bytes) else source
        is_text = isinstance(source, str) and source.lstrip().startswith("{")
        text = source if is_text else Path(source).read_text(encoding="utf-8")
        try:
            values = json.loads(text)
            schema = values.pop("schema", None)
            if schema == SCHEMA:
                for name in ("distance", "certified"):
                    if values.get(name) is not None:
                        values[name] = _lengths(values[name])
                values["runs"] = tuple(AttackRun(**run) for run in values["runs"])
                values["bounds"] = check_bounds(values["bounds"])
                values["noise"] = [NoiseRun(**run) for run in values.get("noise", ())]
                for name in ("epsilons", "alarms", "notes", "noise"):
                    values[name] = tuple(values.get(name, ()))
                return cls(**values)
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"Received what is not a report, or damaged: {error!r}.") from error
        raise ValueError(f"Received a report of schema {schema}; this version reads {SCHEMA}.")

    def save_adversarials(self, path) -> None:
        """Writes `x`, `y`, the closest adversarial images and their distances to an `.npz` file."""
        if self.adversarials is None:
            raise ValueError(
                "This report does not hold the images: it was read from a file, or they are of "
                "several shapes; call save_adversarials on what `evaluate` returned for one shape."
            )
        with files.replacing(path, suffix=".npz") as temporary:
            np.savez_compressed(temporary, **self.adversarials, distance=self.distance)


def _lengths(values):
    """An array; infinite ones are None in JSON."""
    return np.array([np.inf if value is None else value for value in values], "float64")


def _row(run):
    return {
        "label": run.attack,
        # The radius is the row's, for all attacks.
        "config": plain({key: value for key, value in run.config.items() if key != "epsilon"}),
        # A search for distances goes on until it has one: its accuracy says nothing.
        "robust_accuracy": None if run.epsilon is None else run.robust_accuracy,
    }
