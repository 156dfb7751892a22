"""Rows of cards: from a report, and measured again."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

import keras_pde as kp
from keras_pde import cli, hub
from keras_pde.attacks import FGSM, PGD, MinimalDistance
from keras_pde.measure import agree, measure_again, measurement

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
    rows = [measurement(report, epsilon, seed=7) for epsilon in (0.01, 0.1)]
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
    row = measurement(report, 0.1, seed=7)
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
        measurement(report, 0.2, seed=7)


def test_distance_that_was_not_found(report):
    distance = np.full_like(report.distance, np.inf)
    assert measurement(replace(report, distance=distance), 0.1, seed=0).median_distance is None


def test_the_same_numbers_come_out_again(folder, sample):
    card = hub.load_card(folder)
    pairs = measure_again(card, hub.load_model(folder), sample.x_test, sample.y_test)
    assert tuple(published for published, _ in pairs) == card.measurements
    for published, measured in pairs:
        assert agree(published, measured)
        again = json.loads(json.dumps(asdict(replace(measured, date=published.date))))
        assert hub.Measurement(**again) == published


def test_agreement_is_within_both_intervals(card):
    row = card["measurements"][0]
    low, high = row.clean_interval
    assert agree(row, row)
    for share in (low - 1e-3, high + 1e-3):
        share = float(np.clip(share, 0, 1))
        other = replace(
            row,
            clean_accuracy=share,
            clean_interval=(0.0, 1.0),
            robust_accuracy=min(share, row.robust_accuracy),
            robust_interval=(0.0, 1.0),
        )
        assert agree(row, other) == (low <= share <= high)


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


def test_certified_rows_are_not_attacked(card, model, tmp_path, capsys):
    rows = [replace(row, certified=True) for row in card["measurements"]]
    hub.save_model(model, tmp_path / "model", card | {"measurements": rows})
    assert cli.main(["evaluate", str(tmp_path / "model")]) == 1
    assert "all certified" in capsys.readouterr().err


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
