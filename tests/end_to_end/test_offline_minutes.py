"""Offline trainings that fit into minutes: their pace, and shorter schedules."""

import logging
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from recipe_cases import BACKEND, history, quietly, short

import keras_pde as kp
from keras_pde import recipes
from keras_pde.recipes import RunFolder, pace, schedules

pytestmark = pytest.mark.usefixtures("toy")


@pytest.fixture
def slow(monkeypatch):
    """Epochs seem to take so many seconds."""

    def set_to(seconds):
        monkeypatch.setattr(pace.Pace, "epoch", lambda self, steps, every: seconds)

    return set_to


def test_a_training_is_shortened_with_its_schedule(folder, tmp_path, slow):
    slow(60)
    toy = short(folder, **{"training.epochs": 50})
    kept = recipes.train(toy, tmp_path / "run", max_minutes=5.9, blocks=1, say=quietly)
    rows, facts = history(kept), kept.read_json("run.json")
    epochs = facts["epochs"]
    assert len(rows) == epochs and 3 <= epochs <= 5  # compilation took the rest
    assert facts["state"] == "finished"
    schedule = schedules.create("one_cycle", {"peak": 0.1}, 4 * epochs)
    expected = [float(schedule(4 * (row["epoch"]))) for row in rows]
    np.testing.assert_allclose([row["learning_rate"] for row in rows], expected, rtol=1e-4)
    card = kp.hub.load_card(kept / "model")
    assert card.provenance["epochs"] == card.recipe["training"]["epochs"] == epochs


def test_blocks_share_a_schedule_and_a_slower_one_shortens_what_is_left():
    journal = SimpleNamespace(
        deadline=time.monotonic() + 100,
        pace=pace.Pace(0, 1, 0, 0, 0, 1),
        validation=SimpleNamespace(every=1),
        history=[{}] * 6,
        epochs=50,
    )
    lines = []
    assert pace.fitting(journal, 10, 3, lines.append) == 6 + 3 * 9
    assert "1 images a second, 10.5 s an epoch, 100 s are left" in lines[0]
    assert "3 times 9 epochs would fit; the training has 33, not 50" in lines[1]
    journal.epochs = 12
    assert pace.fitting(journal, 10, 3, quietly) == 12
    with pytest.raises(ValueError, match="expected at least 1, the minutes of a block"):
        recipes.train(None, "nowhere", blocks=1)


def test_no_epoch_that_fits_is_an_error_before_the_first_step(folder, tmp_path, slow):
    """After which another recipe can begin there."""
    slow(1e6)
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=r"expected at least 1000000\.0, for one epoch"):
        recipes.train(short(folder), out, max_minutes=5, blocks=1, say=quietly)
    assert not (out / "checkpoint.npz").exists()
    other = short(folder, **{"data.limit": 30})
    RunFolder(out).check(other, resume=False)
    (out / ".lock").unlink()  # somebody's own file, in a folder where no training was
    with pytest.raises(ValueError, match="holds a training"):
        RunFolder(out).check(other, resume=False)


def test_the_pace_is_what_was_slept():
    def rehearse(callbacks, steps):
        (watch,) = callbacks
        watch.set_params({"steps": steps})
        watch.on_epoch_begin(0)
        for batch in range(steps):
            time.sleep(0.02)
            watch.on_train_batch_end(batch, {"loss": np.float32(0)})
        time.sleep(0.1)
        watch.on_test_end()
        time.sleep(0.2)  # an attack
        watch.on_epoch_end(0)

    predicted = np.array([1, 2, 0])
    attacked = SimpleNamespace(every=3, last=None, x=None, batch_size=2)
    attacked.target = SimpleNamespace(predict=lambda x, batch_size: predicted, num_classes=3)
    labels = []
    attacked.measure = lambda y: (labels.append(list(y)), time.sleep(0.05))
    course = SimpleNamespace(
        attacked=attacked,
        rehearse=rehearse,
        batches=SimpleNamespace(steps_per_epoch=5, batch_size=10),
    )
    assigned = []
    journal = SimpleNamespace(
        values=lambda: "before",
        assign=assigned.append,
        rehearse=lambda: 0.3,
        robust_accuracy=lambda: 0.5,
    )
    found = pace.measure(course, journal)
    assert found.step == pytest.approx(0.02, rel=0.5)
    assert found.validation == pytest.approx(0.1, rel=0.5)
    assert found.attack == pytest.approx(0.05, rel=0.5)
    assert found.images_per_second == pytest.approx(10 / found.step)
    assert found.compilation >= 0.5 and found.writing == 0.3
    expected = 1.05 * (7 * found.step + found.validation + found.attack / 3 + 0.3) + 0.02
    assert found.epoch(7, 3) == pytest.approx(expected)
    assert assigned == ["before"] and (attacked.every, attacked.last) == (3, 0.5)
    # All are attacked, and one, whose batch is smaller.
    assert [1, 2, 0] in labels and [1, 0, 1] in labels


@pytest.mark.parametrize("optimizer", ["sgd", "entropy_sgd", "sam", "adam"])
def test_a_stretched_schedule_is_the_shorter_one(folder, optimizer):
    """Whatever optimizer has it, and after it was copied."""
    changes = {"optimizer": {"name": optimizer}, "schedule": {"name": "cosine", "peak": 0.4}}
    if optimizer == "entropy_sgd":
        changes["optimizer"]["inner_steps"] = 2
    recipe = short(folder, **changes)
    made = recipes.build.optimizer(recipe, 100)
    made.build([keras.Variable(np.zeros(3, "float32"))])
    fresh = float(made.learning_rate)
    schedules.adapt(made, 100, 50)
    inner = getattr(made, "inner_optimizer", None) or made
    steps = 20 // getattr(made, "batches_a_step", 1)
    inner.iterations.assign(steps)
    expected = schedules.create("cosine", {"peak": 0.4}, 50 // getattr(made, "batches_a_step", 1))
    assert float(made.learning_rate) == pytest.approx(float(expected(steps)), rel=1e-5)
    copy = type(made).from_config(made.get_config())
    assert float(copy.learning_rate) == pytest.approx(fresh)


@pytest.mark.skipif(BACKEND != "jax", reason="TensorFlow traces for any shape")
def test_nothing_is_compiled_after_the_rehearsal(folder, tmp_path, caplog):
    import jax

    marks = []

    def say(text):
        if "images a second" in text:
            marks.append(len(caplog.records))

    big = ("train_step", "test_step", "traced", "_batch", "cond", "_uniform")
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        recipes.train(
            short(folder, **{"training.epochs": 6, "validation.every": 1, "data.validation": 20}),
            tmp_path / "run",
            max_minutes=60,
            blocks=1,
            say=say,
        )
    texts = [record.getMessage() for record in caplog.records]
    compiled = [text for text in texts if text.startswith("Finished XLA")]
    assert sum("jit(train_step)" in text for text in compiled) == 1
    late = [t for t in texts[marks[0] :] if t.startswith("Finished XLA")]
    assert not [t for t in late if any(f"jit({name})" in t for name in big)]
