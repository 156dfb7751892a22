"""Paired comparison of two reports on the same images."""

from dataclasses import dataclass

import numpy as np

from keras_pde.records import ToJSON
from keras_pde.text import columns, number, percent


@dataclass(frozen=True)
class Row:
    """At one epsilon: both accuracies, the images only one model keeps, the exact p-value."""

    epsilon: float
    first: float
    second: float
    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True)
class Comparison(ToJSON):
    """Two models on the same images.

    Attributes:
        names: of the first and the second model.
        rows: one for clean accuracy (epsilon 0) and for each epsilon that both reports have; the
            p-value is McNemar's exact test (binomial on the images where the models differ).
        medians: median distances of the two.
        ratio: first median over second.
        ratio_interval: its 95 % interval by a paired bootstrap over images.
    """

    names: tuple[str, str]
    rows: tuple[Row, ...]
    medians: tuple[float, float]
    ratio: float
    ratio_interval: tuple[float, float]

    noun = "comparison"

    @classmethod
    def of(cls, first, second, resamples: int = 2000, seed: int = 0):
        """Compares two reports; a `ValueError` if norm or images differ."""
        if (first.norm, first.digest) != (second.norm, second.digest):
            raise ValueError(
                f"Received reports in norms {first.norm!r} and {second.norm!r} on images "
                f"{first.digest[:8]} and {second.digest[:8]}; expected the same norm and images. "
                "Evaluate both models on the same arrays."
            )
        shared = [e for e in first.epsilons if e in second.epsilons]
        rows = tuple(_row(epsilon, first, second) for epsilon in (0.0, *shared))
        draws = np.random.default_rng(seed).integers(0, first.count, (resamples, first.count))
        ratios = _ratio(_medians(first.distance[draws]), _medians(second.distance[draws]))
        bounds = np.quantile(ratios, [0.025, 0.975], method="inverted_cdf")
        medians = (first.distance_quantile(), second.distance_quantile())
        return cls(
            (first.name, second.name),
            rows,
            medians,
            float(_ratio(*map(np.asarray, medians))),
            (float(bounds[0]), float(bounds[1])),
        )

    def table(self) -> str:
        """Readable summary."""
        one, two = self.names
        rows = [("epsilon", one, two, f"only {one}", f"only {two}", "p-value")]
        for row in self.rows:
            shares = (percent(row.first), percent(row.second))
            counts = (str(row.only_first), str(row.only_second))
            rows.append((f"{row.epsilon:g}", *shares, *counts, f"{row.p_value:.2g}"))
        low, high = map(number, self.ratio_interval)
        return "\n".join(
            [
                *columns(rows),
                "",
                f"median distance {number(self.medians[0])} / {number(self.medians[1])} = "
                f"{number(self.ratio)} (95 % interval {low} - {high})",
            ]
        )


def _row(epsilon, first, second):
    from scipy.stats import binomtest

    a, b = first.robust(epsilon), second.robust(epsilon)
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    p = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return Row(epsilon, float(a.mean()), float(b.mean()), only_a, only_b, float(p))


def _medians(distances):
    return np.quantile(distances, 0.5, axis=1, method="inverted_cdf")


def _ratio(a, b):
    """a / b, where 0 / 0 = 1 and equal infinities too: neither is better."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(a == b, 1.0, a / b)
