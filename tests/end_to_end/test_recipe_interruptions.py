"""Trainings by recipes that stop and go on, and those that never begin."""

import json
import re
import resource
import time

import numpy as np
import pytest
from recipe_cases import history, quietly, recipe, short

import keras_pde as kp
from keras_pde import recipes
from keras_pde.recipes import RunFolder

pytestmark = pytest.mark.usefixtures("toy")


# Interruptions


def test_resume_does_only_what_is_left(folder, tmp_path):
    """From stopped to trained to finished."""
    toy, out, lines = short(folder), tmp_path / "run", []

    def state(**options):
        return recipes.train(toy, out, say=lines.append, **options).state()

    assert state(max_minutes=0) == "stopped"
    assert "--max-minutes" in lines[-1] and "--resume" in lines[-1]
    run = RunFolder(out)
    assert len(history(run)) == 1
    assert (run / "curves.png").exists()
    assert state(resume=True, max_minutes=60, evaluate=False) == "trained"
    assert not (run / "model").exists()
    written = (run / "checkpoint.npz").stat().st_mtime_ns
    assert state(resume=True) == "finished"
    assert (run / "checkpoint.npz").stat().st_mtime_ns == written
    written = (run / "model" / "card.json").stat().st_mtime_ns
    assert state(resume=True) == "finished"
    assert "nothing is left" in lines[-1]
    assert (run / "model" / "card.json").stat().st_mtime_ns == written
    # What is about the trained model may change, and is done again.
    evaluation = {"norm": "linf", "epsilons": [0.1], "images": 4, "attacks": {"name": "fgsm"}}
    toy = toy.replaced({"caveats": ["It is a toy."], "evaluation": [evaluation]})
    assert state(resume=True) == "finished"
    card = kp.hub.load_card(run / "model")
    assert (card.caveats, card.measurements[0].images) == (("It is a toy.",), 4)


def test_a_full_disk_leaves_the_last_checkpoint(folder, tmp_path):
    """The kernel refuses to write as much as a checkpoint."""
    toy, run = short(folder), RunFolder(tmp_path / "run")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(line):
        if line.startswith("epoch 1/"):
            size = (run / "best.npz").stat().st_size // 2
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    try:
        with pytest.raises(OSError, match=r"\.npz cannot be written .*--resume"):
            recipes.train(toy, run.path, evaluate=False, say=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(run.read_arrays("checkpoint.npz")[1]["history"]) == 1
    assert {path.name for path in run.path.glob(".*")} == {".lock"}
    recipes.train(toy, run.path, evaluate=False, resume=True, say=quietly)
    assert len(history(run)) == 2


def test_a_diverging_training_stops_and_says_when(folder, tmp_path):
    schedule = {"name": "step", "rate": 0.1, "factors": [1e30], "at": [0.5]}
    with pytest.raises(ValueError, match=r"in epoch 2; .*diverged.*\[schedule\]"):
        recipes.train(short(folder, schedule=schedule), tmp_path / "run", say=quietly)
    run = RunFolder(tmp_path / "run")
    assert len(run.read_arrays("checkpoint.npz")[1]["history"]) == 1
    assert np.isfinite(run.read_arrays("best.npz")[0][0]).all()
    json.loads((run / "run.json").read_text(), parse_constant=pytest.fail)


# Refusals


def test_absent_data_are_missed_at_once_and_nothing_is_created(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    began = time.monotonic()
    with pytest.raises(FileNotFoundError, match="Ways to get it"):
        recipes.train(recipe(data={"name": "cifar10"}), tmp_path / "runs" / "run")
    assert time.monotonic() - began < 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"resume": True}, "holds no training"),
        ({"model.width": "x"}, {}, "width"),
        ({"data.validation": 44}, {}, "validation size of 44"),
        ({"optimizer.nesterof": True}, {}, "Did you mean 'nesterov'"),
    ],
)
def test_nothing_is_created_before_all_is_right(folder, tmp_path, changes, options, message):
    with pytest.raises(ValueError, match=message):
        recipes.train(short(folder, **changes), tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_named(folder, tmp_path):
    toy = short(folder)
    run = recipes.train(toy, tmp_path / "run", max_minutes=0, say=quietly)
    path = run / "checkpoint.npz"
    whole = path.read_bytes()
    run.write_arrays("checkpoint.npz", [np.zeros(3)], history=[], best=None)
    for damaged in (path.read_bytes(), whole[:1000], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            recipes.train(toy, run.path, resume=True, say=quietly)
    (run / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"run\.json without a state"):
        run.state()


def test_what_a_killed_start_leaves_is_in_nobodys_way(tmp_path):
    run = RunFolder(tmp_path)
    (run / ".lock").touch()
    (run / ".recipe.toml.0.unfinished").mkdir()
    run.check(recipe(), resume=False)
    with run.locked():
        run.start(recipe(), resume=False)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "recipe.toml"}


@pytest.mark.parametrize("minutes", [-1, float("nan")])
def test_max_minutes_out_of_range_are_refused(minutes):
    with pytest.raises(ValueError, match=f"max_minutes={minutes}; expected at least 0"):
        recipes.train(recipe(), "never", max_minutes=minutes)
