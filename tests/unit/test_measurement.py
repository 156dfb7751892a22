"""Rows of cards: from a report, and measured again."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hub_cases import make_row

import keras_pde as kp
from keras_pde import cli, hub
from keras_pde.attacks import FGSM, PGD, MinimalDistance
from keras_pde.hub.repeat import measure_again

IMAGES = 24


@pytest.fixture(scope="module")
def sample():
    return kp.data.load("fashion_mnist_sample")


@pytest.fixture(scope="module")
def model():
    return kp.models.create("small_cnn", width=2)


@pytest.fixture(scope="module")
def report(model, sample):
    return kp.evaluate(
        model,
        sample.x_test[:IMAGES],
        sample.y_test[:IMAGES],
        norm="linf",
        epsilons=[0.01, 0.1],
        attacks=[
            FGSM("linf", 0.0),
            PGD("linf", 0.0, steps=3, restarts=2, loss="dlr", seed=7),
            MinimalDistance("linf", steps=2, bisections=2),
        ],
    )


@pytest.fixture(scope="module")
def card(report):
    rows = [report.measurement(epsilon, seed=7) for epsilon in (0.01, 0.1)]
    return {
        "architecture": "small_cnn",
        "arguments": {"width": 2},
        "title": "Untrained",
        "dataset": "fashion_mnist_sample",
        "input_shape": (28, 28, 1),
        "classes": tuple("0123456789"),
        "licence": "Apache-2.0",
        "measurements": rows,
    }


@pytest.fixture(scope="module")
def folder(card, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured") / "model"
    hub.save_model(model, folder, card)
    return folder


def test_row_states_what_the_report_found(report):
    row = report.measurement(0.1, seed=7)
    assert (row.norm, row.epsilon, row.images, row.seed) == ("linf", 0.1, IMAGES, 7)
    assert row.clean_accuracy == report.clean_accuracy and row.clean_interval == report.interval()
    assert row.robust_accuracy == report.robust_accuracy(0.1)
    assert row.robust_interval == report.interval(0.1)
    assert row.digest == report.digest and row.alarms == report.alarms
    assert [a["config"]["class"] for a in row.attacks] == ["FGSM", "PGD", "MinimalDistance"]
    assert row.attacks[1]["config"]["restarts"] == 2 and "epsilon" not in row.attacks[1]["config"]
    own = [run.robust_accuracy for run in report.runs if run.epsilon == 0.1]
    assert [a["robust_accuracy"] for a in row.attacks] == [*own, None]
    with pytest.raises(ValueError, match=r"epsilon=0\.2; expected one of"):
        report.measurement(0.2, seed=7)


def test_distance_that_was_not_found(report):
    distance = np.full_like(report.distance, np.inf)
    assert replace(report, distance=distance).measurement(0.1, seed=0).median_distance is None


def test_the_same_numbers_come_out_again(folder, sample):
    card = hub.load_card(folder)
    pairs = measure_again(card, hub.load_model(folder), sample.x_test, sample.y_test)
    assert tuple(published for published, _ in pairs) == card.measurements
    for published, measured in pairs:
        assert published.agrees_with(measured)
        again = json.loads(json.dumps(asdict(replace(measured, date=published.date))))
        assert hub.Measurement(**again) == published


def test_agreement_is_within_both_intervals(card):
    row = card["measurements"][0]
    low, high = row.clean_interval
    assert row.agrees_with(row)
    for share in (low - 1e-3, high + 1e-3):
        share = float(np.clip(share, 0, 1))
        other = replace(
            row,
            clean_accuracy=share,
            clean_interval=(0.0, 1.0),
            robust_accuracy=min(share, row.robust_accuracy),
            robust_interval=(0.0, 1.0),
        )
        assert row.agrees_with(other) == (low <= share <= high)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"digest": "0" * 64}, "expected the first 24 test images of 'fashion_mnist_sample'"),
        ({"attacks": ({"label": "?", "config": {"class": "PDG"}},)}, "unknown attack"),
        ({"attacks": ({"label": "?", "config": {"class": "PGD", "norm": "l2"}},)}, "same norm"),
    ],
)
def test_rows_that_cannot_be_repeated(folder, sample, change, match):
    card = hub.load_card(folder)
    row = replace(card.measurements[0], **change)
    with pytest.raises(ValueError, match=match):
        measure_again(
            replace(card, measurements=(row,)),
            hub.load_model(folder),
            sample.x_test,
            sample.y_test,
        )


def test_labels_may_be_one_hot(folder, sample):
    one_hot = np.eye(10)[sample.y_test]
    pairs = measure_again(hub.load_card(folder), hub.load_model(folder), sample.x_test, one_hot)
    assert all(published.agrees_with(measured) for published, measured in pairs)


def test_other_images_are_refused_before_they_are_attacked(folder, sample, monkeypatch):
    monkeypatch.setattr("keras_pde.hub.repeat.evaluate", None)
    images = 1 - sample.x_test
    with pytest.raises(ValueError, match="images of 'fashion_mnist_sample' that the card"):
        measure_again(hub.load_card(folder), hub.load_model(folder), images, sample.y_test)


def test_command_compares_with_the_card(folder, capsys):
    assert cli.main(["evaluate", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("agrees") == 2 and "linf 0.01" in shown


def test_command_fails_if_numbers_differ(card, model, tmp_path, capsys):
    better = {"robust_accuracy": 1.0, "robust_interval": (0.9, 1.0)}
    better |= {"clean_accuracy": 1.0, "clean_interval": (0.9, 1.0)}
    rows = [replace(card["measurements"][0], **better), card["measurements"][1]]
    hub.save_model(model, tmp_path / "model", card | {"measurements": rows})
    assert cli.main(["evaluate", str(tmp_path / "model")]) == 1
    shown = capsys.readouterr()
    assert shown.out.count("DIFFERS") == 1 and "1 of 2 rows lie outside" in shown.err


PROVEN = {
    "certified_accuracy": 0.25,
    "certified_interval": (0.1, 0.5),
    "certificate": {"label": "bounds", "config": {}},
}


def test_certified_accuracy_is_a_column_of_its_own(report):
    report = replace(report, distance=np.linspace(0, 0.4, IMAGES))
    proven = replace(report, certified=report.distance / 2, certificate=PROVEN["certificate"])
    row = proven.measurement(0.1, seed=7)
    assert row.certified_accuracy == 0.5 < row.robust_accuracy == report.robust_accuracy(0.1)
    low, high = row.certified_interval
    assert low < row.certified_accuracy < high
    assert "certified" in proven.table() and "certified" not in report.table()
    assert kp.Report.from_json(proven.to_json()) == proven != report
    through = json.loads(json.dumps(row.to_dict()))
    assert json.loads(json.dumps(hub.Measurement.from_dict(through).to_dict())) == through
    assert "certified_accuracy" not in report.measurement(0.1, seed=7).to_dict()


def test_proofs_without_end_or_up_to_what_was_found(report):
    """Nothing is found below: a distance is measured with a rounding."""
    exact = np.where(report.distance > 0, report.distance, 0.0)
    for radius in (exact, exact * (1 - 1e-6), np.where(np.isinf(exact), exact, 0.0)):
        proven = replace(report, certified=radius, certificate=PROVEN["certificate"])
        again = type(report).from_json(proven.to_json().encode())
        np.testing.assert_array_equal(again.certified, radius)
        assert again == proven
    for name in ("distance", "certified"):
        with pytest.raises(ValueError, match=f"NaN in `{name}`"):
            replace(report, **{name: np.full(report.count, np.nan)})


def test_radii_and_bounds_of_rows(report):
    """A radius as people write it; bounds that are not the usual ones are part of the row."""
    epsilon = report.epsilons[0]
    for same in (str(epsilon), np.float32(epsilon)):
        assert report.measurement(same, seed=7) == report.measurement(epsilon, seed=7)
        assert report.robust_accuracy(same) == report.robust_accuracy(epsilon)
    with pytest.raises(ValueError, match="length of at least 0"):
        report.robust_accuracy(np.nan)
    wide = replace(report, bounds=(0.0, 255.0), epsilons=(8.0,))
    row = wide.measurement(8, seed=7)
    assert row.threat == kp.Threat("linf", 8.0, (0, 255)) and str(row.threat) == "linf 8"
    assert hub.Measurement.from_dict(json.loads(row.to_json())) == row
    assert "bounds" not in report.measurement(epsilon, seed=7).to_dict()


def test_a_proof_that_attacks_have_broken_is_refused(report):
    found = np.isfinite(report.distance) & (report.distance > 0)
    assert found.any()
    radius = np.where(found, 1.01 * report.distance, 0.0)
    with pytest.raises(ValueError, match=r"attacks have broken: image \d+ is certified to"):
        replace(report, certified=radius, certificate=PROVEN["certificate"])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"certified_accuracy": 1.0, "certified_interval": (0.9, 1.0)}, "attacks have broken the"),
        ({"certified_interval": None}, "around 0.25"),
        ({"certificate": None}, "a dict with label and config"),
        ({"certified_accuracy": True}, "expected float"),
    ],
)
def test_rows_that_prove_nothing(change, match):
    assert hub.Measurement(**make_row(**PROVEN)).certified_accuracy == 0.25
    with pytest.raises(ValueError, match=match):
        hub.Measurement(**make_row(**{**PROVEN, **change}))


def test_show_prints_the_recipe(card, model, folder, tmp_path, capsys):
    assert cli.main(["show", str(folder), "--recipe"]) == 1
    assert "holds no recipe" in capsys.readouterr().err
    recipe = {
        "title": "Tiny",
        "data": {"name": "mnist"},
        "model": {"name": "lenet"},
        "training": {"epochs": 1},
    }
    hub.save_model(model, tmp_path / "model", card | {"recipe": recipe})
    assert cli.main(["show", str(tmp_path / "model"), "--recipe"]) == 0
    assert 'name = "lenet"' in capsys.readouterr().out
    assert json.loads(hub.load_card(tmp_path / "model").to_json())["recipe"] == recipe
