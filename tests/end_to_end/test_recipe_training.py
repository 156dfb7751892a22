"""Recipes run from end to end: what is written, what survives kills, what is put together."""

import csv
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import recipe_cases
from keras import ops
from recipe_cases import BACKEND, assert_same_training, history, quietly, short, toy_recipe

import keras_pde as kp
from keras_pde import recipes
from keras_pde.recipes import RunFolder, build

pytestmark = pytest.mark.usefixtures("toy")

ROBUST = "val_robust_accuracy"


@pytest.fixture(scope="module")
def toml(folder):
    """The recipe as a file."""
    path = folder / "toy.toml"
    path.write_text(toy_recipe(folder / "toy.npz").to_toml(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(folder, toml):
    """An uninterrupted training, and what it said."""
    lines = []
    return recipes.train(recipes.load(toml), folder / "whole", say=lines.append), lines


def train(toml, out, **options):
    return recipes.train(recipes.load(toml), out, **{"say": quietly, **options})


# What is written


def test_a_run_writes_what_its_folder_promises(whole, toml):
    run, lines = whole
    visible = {path.name for path in run.path.iterdir() if not path.name.startswith(".")}
    assert ("tensorboard" in visible) == bool(importlib.util.find_spec("tensorboard"))
    assert visible - {"tensorboard"} == {
        "recipe.toml",
        "run.json",
        "checkpoint.npz",
        "best.npz",
        "history.csv",
        "curves.png",
        "model",
        "report_linf.json",
        "report_linf.png",
    }
    assert {path.name for path in run.path.glob(".*")} == {".lock"}
    for name in ("curves.png", "report_linf.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG")
    assert recipes.load(run / "recipe.toml") == recipes.load(toml)
    facts = run.read_json("run.json")
    with (run / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{k: float(v) for k, v in row.items() if v} for row in rows] == facts["history"]
    assert (facts["state"], facts["seed"], facts["data"]) == ("finished", 0, "toy")
    assert (facts["training_images"], facts["validation_images"]) == (36, 8)
    (start,) = facts["starts"]
    assert start["commit"] and start["after_epoch"] == 0
    assert (start["backend"], start["keras"]) == (BACKEND, keras.__version__)
    assert [row["epoch"] for row in facts["history"]] == [1, 2, 3, 4, 5]
    assert all(row["seconds"] >= 0 and row["loss"] > 0 for row in facts["history"])
    assert facts["kept"] in facts["history"]
    assert sum(line.startswith("epoch ") for line in lines) == 5
    assert str(run.path) in lines[0] and "Saved" in lines[-1]


def test_the_saved_model_is_the_best_epoch_measured_on_test_images(whole, folder):
    run, _ = whole
    card = kp.hub.load_card(run / "model")
    model = kp.load_model(run / "model")
    best, facts = run.read_arrays("best.npz")
    assert facts["epoch"] == card.provenance["kept"]["epoch"]
    for ours, theirs in zip(best, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    data = kp.data.load(folder / "toy.npz")
    x, y = data.x_test[:10], data.y_test[:10]
    attacks = [kp.attacks.FGSM("linf", 0.1)]
    report = kp.evaluate(model, x, y, norm="linf", epsilons=[0.1], attacks=attacks)
    (row,) = card.measurements
    assert row.robust_accuracy == report.robust_accuracy(0.1)
    assert card.recipe == recipes.load(run / "recipe.toml").values
    assert card.name == "toy/linf-0.1/recipe_toy"


def test_only_measured_robust_accuracies_are_written_down(whole):
    """`every` is 2; the last epoch is always attacked, and one that is not is never kept."""
    rows = history(whole[0])
    assert [row["epoch"] for row in rows if ROBUST in row] == [1, 2, 4, 5]
    kept = whole[0].read_json("run.json")["kept"]
    best = max(row[ROBUST] for row in rows if ROBUST in row)
    assert kept["epoch"] == max(row["epoch"] for row in rows if row.get(ROBUST) == best)


def test_learning_rates_are_those_of_the_schedule(whole):
    schedule = kp.recipes.schedules.create("one_cycle", {"peak": 0.1}, 20)
    found = [row["learning_rate"] for row in history(whole[0])]
    expected = [float(ops.convert_to_numpy(schedule(4 * epoch))) for epoch in range(1, 6)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_tensorboard_shows_the_course(whole):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from tensorboard.util.tensor_util import make_ndarray

    events = reader.EventAccumulator(str(whole[0] / "tensorboard"))
    events.Reload()
    for name in ("loss", "val_accuracy", ROBUST, "learning_rate"):
        found = {e.step: make_ndarray(e.tensor_proto).item() for e in events.Tensors(name)}
        rows = {row["epoch"]: row[name] for row in history(whole[0]) if name in row}
        assert found == pytest.approx(rows)


def test_tensorboard_is_not_needed(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    lines = []
    run = recipes.train(short(folder), tmp_path / "run", max_minutes=0, say=lines.append)
    assert sum("pip install tensorboard" in line for line in lines) == 1
    assert not (run / "tensorboard").exists()


# Interruptions


def test_a_killed_training_ends_with_the_same_bits(whole, folder, toml):
    """Killed before the files of an epoch stand; in an epoch's middle, see test_whole_loop.py."""
    run = RunFolder(folder / "killed")
    script = recipe_cases.__file__
    root = str(Path(kp.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "KERAS_BACKEND": BACKEND}
    command = [sys.executable, script, str(folder)]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert len(history(run)) == 2
    assert not (run / "model").exists()
    assert list(run.path.glob(".best.npz.*")) + list(run.path.glob(".checkpoint.npz.*"))
    lines = []
    train(toml, run.path, resume=True, say=lines.append)
    assert "Resumed after epoch 2 of 5." in lines
    assert {path.name for path in run.path.glob(".*")} == {".lock"}
    assert_same_training(run, whole[0])
    models = [kp.load_model(r / "model").get_weights() for r in (run, whole[0])]
    for a, b in zip(*models, strict=True):
        np.testing.assert_array_equal(a, b)


# Refusals


def test_a_folder_has_one_training(whole, toml, tmp_path):
    run, _ = whole
    with pytest.raises(ValueError, match="holds a training; expected an empty one, or --resume"):
        train(toml, run.path)
    with RunFolder(tmp_path / "busy").locked(), pytest.raises(ValueError, match="another process"):
        train(toml, tmp_path / "busy")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for path in (tmp_path / "mine", tmp_path / "mine" / "notes.txt"):
        with pytest.raises(ValueError, match="which is not empty"):
            train(toml, path)


def test_a_training_is_resumed_by_its_own_recipe_only(whole, toml):
    other = recipes.load(toml).replaced({"training.seed": 1, "validation.images": 2, "title": ""})
    expected = r"\(training.seed: None -> 1, validation.images: \w+ -> 2\)"
    with pytest.raises(ValueError, match=expected):
        recipes.train(other, whole[0].path, resume=True)


# Parts that are put together


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_weights_and_logits_in_float32(folder, precision):
    toy = short(folder, **{"training.precision": precision})
    loaded, part, _ = build.dataset(toy)
    robust = build.robust_model(toy, loaded, steps=8)
    assert robust.model.layers[1].compute_dtype == precision.removeprefix("mixed_")
    for network in (robust.model, robust.averaged):
        assert {w.dtype for w in network.weights} == {"float32"}
        assert ops.convert_to_numpy(network(part[0][:2])).dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"


def test_mixed_precision_is_resumed_with_its_loss_scale_and_saved_in_float32(folder, tmp_path):
    toy = short(folder, **{"training.precision": "mixed_float16"})
    whole = recipes.train(toy, tmp_path / "whole", evaluate=False, say=quietly)
    run = recipes.train(toy, tmp_path / "run", max_minutes=0, say=quietly)
    recipes.train(toy, run.path, resume=True, say=quietly)
    assert_same_training(run, whole)
    model = kp.load_model(run / "model")  # which compares golden logits
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}


def test_a_recipe_starts_from_a_saved_model(whole, folder):
    source = str(whole[0] / "model")
    toy = short(folder, model={"from": source})
    build.check(toy)
    loaded = build.dataset(toy)[0]
    assert build.architecture(toy, loaded)[0] == "recipe_toy"
    saved = kp.load_model(source).get_weights()
    for new, old in zip(build.network(toy, loaded).get_weights(), saved, strict=True):
        np.testing.assert_array_equal(new, old)
    with pytest.raises(ValueError, match="expected from alone"):
        build.check(short(folder, model={"from": source, "width": 3}))


def test_patience_ends_a_training_that_gets_no_better(folder, tmp_path):
    """With a rate of next to nothing no epoch is better than the first."""
    still = {"schedule": {"name": "constant", "rate": 1e-9}, "training.average": 0.0}
    still |= {"training.epochs": 9, "validation.select": "val_accuracy", "model": {"name": "mlp"}}
    patient = short(folder, **still, **{"validation.patience": 3})
    lines = []
    run = recipes.train(patient, tmp_path / "run", say=lines.append)
    assert len(history(run)) == 4 and run.state() == "finished"
    assert "Stopped after epoch 4 of 9, as validation.patience says." in lines
    assert "stopped after epoch 4 of 9" in kp.hub.load_card(run / "model").caveats[0]
    recipes.train(patient, tmp_path / "run", resume=True, say=lines.append)
    assert len(history(run)) == 4
    with pytest.raises(ValueError, match="patience = 3 with select"):
        patient.replaced({"validation.select": "last"})
