"""The statistics of a report, and of two reports of the same images."""

import json

import numpy as np
import pytest
from evaluation_cases import synthetic
from scipy import stats

from keras_pde.evaluation.report import interval

# Statistics


def test_interval_is_clopper_pearson():
    # 8 of 10: a value printed in many tables.
    assert interval(8, 10) == pytest.approx((0.4439, 0.9748), abs=5e-5)
    for successes, count in ((0, 20), (20, 20), (7, 1000)):
        low, high = interval(successes, count)
        beta = stats.beta
        assert low == pytest.approx(
            beta.ppf(0.025, successes, count - successes + 1) if successes else 0.0
        )
        assert high == pytest.approx(
            beta.ppf(0.975, successes + 1, count - successes) if successes < count else 1.0
        )
    report = synthetic([0.0, 0.1, 0.3, np.inf])
    assert report.interval(0.2) == interval(2, 4)
    assert report.interval() == interval(3, 4)


def test_quantiles_count_misclassified_as_zero_and_not_found_as_infinite():
    report = synthetic([0.0, 0.0, 0.1, 0.2, np.inf, np.inf, np.inf, np.inf])
    assert report.distance_quantile(0.25) == 0.0
    assert report.distance_quantile(0.5) == 0.2
    assert report.distance_quantile(0.51) == np.inf
    assert report.clean_accuracy == 0.75


# Comparison


def test_comparison_counts_pairs():
    first = synthetic([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.1, 0.0, np.inf], "one", epsilons=(0.2, 0.3))
    other = synthetic([0.1, 0.1, 0.1, 0.1, 0.1, 0.5, 0.5, 0.0, 0.0], "two", epsilons=(0.2, 0.9))
    found = first.compare(other)
    assert [row.epsilon for row in found.rows] == [0.0, 0.2], "only what both have"
    clean, at = found.rows
    assert (clean.only_first, clean.only_second, clean.p_value) == (1, 0, 1.0)
    assert (at.first, at.second) == (7 / 9, 2 / 9)
    assert (at.only_first, at.only_second) == (6, 1)
    # McNemar, exact: twice P(at most 1 of 7 fair coins).
    assert at.p_value == pytest.approx(2 * (1 + 7) / 2**7)
    assert found.distances == (0.5, 0.1) and found.ratio == pytest.approx(5.0)
    low, high = found.ratio_interval
    assert low <= found.ratio <= high
    text = found.table()
    for part in ("one", "two", "only one", "77.8 %", "22.2 %", "0.12", "0.5 / 0.1 = 5"):
        assert part in text
    same = first.compare(first)
    assert same.ratio == 1 and same.ratio_interval == (1.0, 1.0)
    assert all(row.p_value == 1 and row.only_first == 0 for row in same.rows)


def test_comparison_where_nothing_is_found():
    nothing, all_wrong = synthetic([np.inf] * 5), synthetic([0.0] * 5)
    assert nothing.compare(all_wrong).ratio == np.inf
    assert all_wrong.compare(nothing).ratio == 0
    mixed = synthetic([0.1, np.inf, np.inf, 0.1, 0.0])
    assert "not found" in nothing.compare(mixed).table()


@pytest.mark.parametrize(
    ("distances", "advice"), [([0.0] * 6 + [0.1] * 4, "larger"), ([np.inf] * 5, "smaller")]
)
def test_medians_without_a_ratio_have_none(distances, advice):
    """Both 0, or both not found: of 0 / 0 nobody can say that it is 1."""
    first, second = synthetic(distances), synthetic([2 * d for d in distances])
    found = first.compare(second)
    assert np.isnan([found.ratio, *found.ratio_interval]).all()
    assert found.to_dict()["ratio"] is None
    assert f"has no ratio: compare a quantile {advice} than 0.5" in str(found)


def test_another_quantile_is_compared():
    distances = [0.0] * 6 + [0.1, 0.2, 0.3, 0.4]
    found = synthetic([2 * d for d in distances]).compare(synthetic(distances), quantile=0.8)
    assert (found.distances, found.ratio) == ((0.4, 0.2), 2.0)
    assert "80 % quantile of the distance 0.4 / 0.2 = 2 " in found.table()
    # Some draws have no ratio: then nothing bounds it from above, or from below.
    assert found.ratio_interval == (0.0, np.inf)
    for q in (0, 1, "half"):
        with pytest.raises(ValueError, match="Received quantile"):
            synthetic(distances).compare(synthetic(distances), quantile=q)


def test_a_comparison_is_written_as_json(tmp_path):
    first, second = synthetic([0.1, 0.2, 0.0, 0.4, np.inf]), synthetic([0.0] * 5)
    found = first.compare(second)
    assert json.loads(found.to_json(tmp_path / "c.json")) == found.to_dict()
    assert json.loads((tmp_path / "c.json").read_text()) == found.to_dict()
    assert found.to_dict()["ratio"] is None  # infinite
    assert found.to_dict()["rows"][0]["first"] == found.rows[0].first


def test_the_bootstrap_covers_the_true_ratio():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(40):
        distances = rng.lognormal(size=60)
        first, second = synthetic(2.0 * distances), synthetic(distances * rng.lognormal(0, 0.1, 60))
        low, high = first.compare(second).ratio_interval
        hits += low <= 2.0 <= high
    assert hits >= 33, "about 95 %"


def test_comparison_of_strangers_is_refused():
    mine = synthetic([0.1, 0.2])
    for other in (synthetic([0.1, 0.2], norm="linf"), synthetic([0.1, 0.2], digest="e" * 64)):
        with pytest.raises(ValueError, match="expected the same norm and images"):
            mine.compare(other)
