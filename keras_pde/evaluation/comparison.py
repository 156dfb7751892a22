"""Paired comparison of two reports on the same images."""

import math
from dataclasses import dataclass

import numpy as np

from keras_pde.checks import check_number
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
        quantile: at which distances are compared, 0.5 for medians.
        distances: that quantile of the distances of the two.
        ratio: first distance over second; NaN if both are 0 (most images misclassified) or both
            infinite (nothing found), of which neither is larger.
        ratio_interval: its 95 % interval by a paired bootstrap over images. Draws without a ratio
            count as below the lower and above the upper end.
    """

    names: tuple[str, str]
    rows: tuple[Row, ...]
    quantile: float
    distances: tuple[float, float]
    ratio: float
    ratio_interval: tuple[float, float]

    noun = "comparison"

    @classmethod
    def of(cls, first, second, quantile: float = 0.5, resamples: int = 2000, seed: int = 0):
        """Compares two reports; a `ValueError` if norm or images differ."""
        quantile = check_number(quantile, "quantile", above=0, below=1)
        if first.success != second.success:
            raise ValueError(
                f"Received reports with success={first.success!r} and {second.success!r}; expected "
                "the same."
            )
        if first.success == "<lambda>":
            raise ValueError(
                "Received reports with lambdas for success, which cannot be told from each other; "
                "expected a function with a name."
            )
        if (first.norm, first.digest) != (second.norm, second.digest):
            raise ValueError(
                f"Received reports in norms {first.norm!r} and {second.norm!r} on images "
                f"{first.digest[:8]} and {second.digest[:8]}; expected the same norm and images. "
                "Evaluate both models on the same arrays."
            )
        shared = [e for e in first.epsilons if e in second.epsilons]
        rows = tuple(_row(epsilon, first, second) for epsilon in (0.0, *shared))
        draws = np.random.default_rng(seed).integers(0, first.count, (resamples, first.count))
        ratios = _ratio(
            *(
                np.quantile(report.distance[draws], quantile, axis=1, method="inverted_cdf")
                for report in (first, second)
            )
        )
        distances = (first.distance_quantile(quantile), second.distance_quantile(quantile))
        ratio = float(_ratio(*distances))
        return cls(
            (first.name, second.name),
            rows,
            quantile,
            distances,
            ratio,
            (math.nan, math.nan) if math.isnan(ratio) else _interval(ratios),
        )

    def table(self) -> str:
        """Readable summary."""
        one, two = self.names
        rows = [("epsilon", one, two, f"only {one}", f"only {two}", "p-value")]
        for row in self.rows:
            shares = (percent(row.first), percent(row.second))
            counts = (str(row.only_first), str(row.only_second))
            rows.append((f"{row.epsilon:g}", *shares, *counts, f"{row.p_value:.2g}"))
        return "\n".join([*columns(rows), "", self.summary()])

    def __str__(self) -> str:
        return self.table()

    def summary(self) -> str:
        """The distances and their ratio, in one line."""
        what = "median" if self.quantile == 0.5 else f"{100 * self.quantile:g} % quantile of the"
        distances = f"{what} distance {' / '.join(map(number, self.distances))}"
        if math.isnan(self.ratio):
            other = "larger" if self.distances[0] == 0 else "smaller"
            return f"{distances} has no ratio: compare a quantile {other} than {self.quantile:g}"
        low, high = self.ratio_interval
        return f"{distances} = {self.ratio:.3g} (95 % interval {low:.3g} - {high:.3g})"


def _row(epsilon, first, second):
    from scipy.stats import binomtest

    a, b = first.robust(epsilon), second.robust(epsilon)
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    p = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return Row(epsilon, float(a.mean()), float(b.mean()), only_a, only_b, float(p))


def _ratio(a, b):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(a, b)


def _interval(ratios):
    low, high = (np.nan_to_num(ratios, nan=end, posinf=np.inf) for end in (0.0, np.inf))
    return tuple(
        float(np.quantile(values, q, method="inverted_cdf"))
        for values, q in ((low, 0.025), (high, 0.975))
    )
