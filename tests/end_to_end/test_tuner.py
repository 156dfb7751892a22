"""Searches: what a trial is, what is left behind, and what happens when something goes wrong."""

import dataclasses
import io
import json

import numpy as np
import pytest
from recipe_cases import recipe, write_data
from rich.console import Console

from keras_pde import cli, recipes, registry
from keras_pde.cli import tune
from keras_pde.recipes import build, devices

keras_tuner = pytest.importorskip("keras_tuner")

from keras_pde.tuner import RobustHyperModel, Trial, extra, ranked, search, tradeoff  # noqa: E402

RATES = {"schedule.peak": {"choices": [0.05, 0.1, 0.2]}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_data(tmp_path_factory.mktemp("data")))


@pytest.fixture
def toy(data):
    """A recipe with a search that takes a second a trial."""

    def make(spaces=RATES, epochs=2, **tables):
        given = {
            "objective": {"name": "plain"},
            "validation": {"epsilon": 0.05, "steps": 2},
            **tables,
        }
        return recipe(
            data={"name": data, "validation": 8},
            training={"epochs": epochs, "batch_size": 12},
            schedule={"name": "one_cycle", "peak": 0.1},
            search=spaces,
            **given,
        )

    return make


def _file(folder, recipe):
    path = folder / "recipe.toml"
    path.write_text(recipe.to_toml())
    return str(path)


# The hypermodel


def _examples(kind):
    return [pytest.param(e.name, e.example, id=e.name) for e in registry.entries(kind)]


@pytest.mark.parametrize(("name", "example"), _examples("objective"))
def test_any_objective_can_be_searched(name, example, data):
    part = {"name": name, **{k: "none" if v is None else v for k, v in example.items()}}
    hypermodel = RobustHyperModel.of("mlp", part, {"name": data, "validation": 8}, RATES)
    robust = hypermodel.build(keras_tuner.HyperParameters())
    assert robust.compiled
    assert robust.objective == build.objective(hypermodel.recipe)


def test_of_takes_names_and_tables():
    hypermodel = RobustHyperModel.of(
        {"name": "small_cnn", "width": 2},
        "plain",
        "fashion_mnist_sample",
        {"model.width": {"low": 2, "high": 3}},
        training={"epochs": 4},
        validation={"norm": "l2", "epsilon": 0.5},
        optimizer={"name": "salr"},
    )
    hp = keras_tuner.HyperParameters()
    made = hypermodel.recipe_of(hp)
    assert float(build.optimizer(made, 10).learning_rate) == 0.5  # no schedule but its own rate
    assert (made.training.epochs, made.validation.norm, made.search) == (4, "l2", {})
    assert hp.values == {"model.width": 2}


def test_models_that_cannot_be_built_are_refused_before_the_first_trial(toy):
    with pytest.raises(ValueError, match="width"):
        RobustHyperModel(toy({"model.width": {"low": 0, "high": 4}}))


def test_test_images_take_no_part(toy):
    loaded = RobustHyperModel(toy()).loaded
    assert (len(loaded.x_test), len(loaded.y_test)) == (0, 0)


def test_data_in_search_are_refused(toy, tmp_path):
    tuner = keras_tuner.RandomSearch(
        RobustHyperModel(toy()),
        keras_tuner.Objective("val_robust_accuracy", "max"),
        max_trials=1,
        directory=tmp_path,
    )
    with pytest.raises(ValueError, match="Received data in `search`"):
        tuner.search(np.zeros((4, 6, 6, 1)), verbose=0)


def test_a_later_part_of_a_training_goes_on_with_schedule_and_average(toy):
    made = toy(epochs=31).replaced({"training.average": 0.999, "schedule.peak": 1e-6})
    hypermodel, hp = RobustHyperModel(made), keras_tuner.HyperParameters()
    hypermodel.spaces = ()
    robust = hypermodel.build(hp)
    loaded = [w + 0.1 for w in robust.model.get_weights()]  # as from a former trial's checkpoint
    robust.model.set_weights(loaded)
    history = hypermodel.fit(hp, robust, epochs=31, initial_epoch=30)
    assert history.epoch == [30]
    assert int(robust.optimizer.iterations) == 31 * 3  # 36 images, batches of 12
    # The average began at the loaded weights, not at those that the model was built with.
    for kernel, expected in zip(robust.averaged.get_weights(), loaded, strict=True):
        np.testing.assert_allclose(kernel, expected, atol=0.01)


def test_an_average_of_the_optimizer_goes_on_from_loaded_weights(toy):
    made = toy(epochs=31).replaced({"training.average": 0, "schedule.peak": 1e-6})
    made = made.replaced({"optimizer.use_ema": True})
    hypermodel, hp = RobustHyperModel(made), keras_tuner.HyperParameters()
    hypermodel.spaces = ()
    robust = hypermodel.build(hp)
    loaded = [w + 0.1 for w in robust.model.get_weights()]
    robust.model.set_weights(loaded)
    hypermodel.fit(hp, robust, epochs=31, initial_epoch=30)
    for kernel, expected in zip(robust.model.get_weights(), loaded, strict=True):
        np.testing.assert_allclose(kernel, expected, atol=0.01)


# A search


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """The folder of a search by the command line, its output, and its recipe."""
    folder = tmp_path_factory.mktemp("search")
    made = recipe(
        data={"name": data, "validation": 8},
        objective={"name": "adversarial", "norm": "linf", "epsilon": 0.05},
        training={"batch_size": 12},
        validation={"epsilon": 0.05, "steps": 2},
        schedule={"name": "one_cycle"},
        search={"schedule.peak": {"low": 0.01, "high": 0.2, "log": True}},
    )
    assert cli.main(["tune", _file(folder, made), "--trials", "2", "--out", str(folder / "s")]) == 0
    return folder / "s", made


def test_results_are_written(finished, capsys):
    folder, made = finished
    first, second = json.loads((folder / "trials.json").read_text())
    assert (first["number"], second["number"]) == (0, 1)
    for trial in (first, second):
        assert trial["state"] == "completed"
        assert 0.01 <= trial["values"]["schedule.peak"] <= 0.2
        assert {"val_accuracy", "val_robust_accuracy"} <= trial["metrics"].keys()
    best = recipes.load(folder / "best.toml")
    chosen = max(first, second, key=lambda t: t["metrics"]["val_robust_accuracy"])
    assert best == dataclasses.replace(made.replaced(chosen["values"]), search={})
    assert (folder / "tradeoff.png").read_bytes().startswith(b"\x89PNG")


def test_the_best_recipe_trains_to_the_same_numbers(finished, tmp_path):
    folder, _ = finished
    trials = [
        Trial.from_dict(values) for values in json.loads((folder / "trials.json").read_text())
    ]
    best = ranked(trials, "val_robust_accuracy")[0]
    for name, count in best.images.items():
        low, high = best.interval(name)
        assert count > 0 and low <= best.metrics[name] <= high
    run = recipes.train(
        recipes.load(folder / "best.toml"), tmp_path / "run", evaluate=False, say=lambda text: None
    )
    kept = run.read_json("run.json")["history"]
    assert max(row["val_robust_accuracy"] for row in kept) == best.metrics["val_robust_accuracy"]
    assert best.metrics["loss"] in [row["loss"] for row in kept]


def test_a_folder_is_taken_up_only_on_request_and_unchanged(finished, capsys, tmp_path):
    folder, made = finished
    again = ["tune", _file(tmp_path, made), "--out", str(folder)]
    assert cli.main([*again, "--trials", "3"]) == 1
    assert "--resume" in capsys.readouterr().err
    assert cli.main([*again, "--trials", "3", "--resume", "--tuner", "bayesian"]) == 1
    assert "'tuner': 'random'" in capsys.readouterr().err
    before = (folder / "trials.json").read_text()
    assert cli.main([*again, "--trials", "3", "--resume"]) == 0
    assert "Best of 3 trials" in capsys.readouterr().out
    assert json.loads((folder / "trials.json").read_text())[:2] == json.loads(before)


def test_a_shortened_search_is_taken_up_by_the_same_words(finished, capsys, tmp_path):
    _, made = finished
    short = ["tune", _file(tmp_path, made), "--out", str(tmp_path / "short"), "--epochs", "1"]
    assert cli.main([*short, "--trials", "1"]) == 0
    assert cli.main([*short, "--trials", "2", "--resume"]) == 0
    assert "Best of 2 trials" in capsys.readouterr().out
    assert cli.main([*short[:-2], "--trials", "2", "--resume"]) == 1
    assert "training.epochs" in capsys.readouterr().err


def test_hyperband_goes_on_with_the_best_of_three(toy, tmp_path):
    spaces = {"schedule.peak": {"low": 0.01, "high": 0.2, "log": True}}
    *short, long = trials = search(toy(spaces, epochs=3), tmp_path, 4, tuner="hyperband", seed=1)
    assert [trial.state for trial in trials] == ["completed"] * 4
    assert [trial.epoch for trial in trials] == [1, 1, 1, 3]
    assert long.values == ranked(short, "val_robust_accuracy")[0].values


@pytest.mark.slow
def test_bayesian_search(toy, tmp_path):
    # The third trial is the first that is not random.
    trials = search(toy(epochs=1), tmp_path, 3, tuner="bayesian")
    assert [trial.state for trial in trials] == ["completed"] * 3


@pytest.mark.slow
def test_a_small_space_ends_the_search(toy, tmp_path):
    trials = search(toy({"schedule.peak": {"choices": [0.05, 0.1]}}, epochs=1), tmp_path, 9)
    assert sorted(trial.values["schedule.peak"] for trial in trials) == [0.05, 0.1]


def test_an_interrupted_search_goes_on(toy, tmp_path, monkeypatch):
    fit, calls = RobustHyperModel.fit, []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(RobustHyperModel, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search(toy(epochs=1), tmp_path, 2)
    trials = search(toy(epochs=1), tmp_path, 2, resume=True)
    assert [trial.state for trial in trials] == ["completed", "completed"]
    assert len(calls) == 3  # the first trial was not run again


# What goes wrong


def test_a_failed_trial_is_reported_with_its_reason(toy, tmp_path, capsys):
    made = toy({"schedule.peak": {"choices": [0.05, 1e30]}}, epochs=1)
    options = ["--trials", "2", "--out", str(tmp_path / "s")]
    assert cli.main(["tune", _file(tmp_path, made), *options]) == 0
    out = capsys.readouterr().out
    assert out.count("the training has diverged") == 2  # in the list, and at the end
    assert recipes.load(tmp_path / "s" / "best.toml").schedule.arguments["peak"] == 0.05


def test_no_success_is_an_error(toy, tmp_path, capsys):
    made = toy({"schedule.peak": {"choices": [1e30, 1e31]}}, epochs=1)
    options = ["--trials", "1", "--out", str(tmp_path / "s")]
    assert cli.main(["tune", _file(tmp_path, made), *options]) == 1
    assert "None of the 1 trials succeeded: trial 0:" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "s" / "trials.json").read_text())) == 1
    assert not (tmp_path / "s" / "best.toml").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tuner": "hyprband"}, "Did you mean 'hyperband'"),
        ({"objective": "val_robust_acuracy"}, "Did you mean 'val_robust_accuracy'"),
    ],
)
def test_unknown_options(options, message, toy, tmp_path):
    with pytest.raises(ValueError, match=message):
        search(toy(), tmp_path / "s", 1, **options)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("absent", ["keras_tuner", "sklearn"])
def test_what_is_not_installed_is_named_before_anything_is_written(
    absent, toy, tmp_path, monkeypatch
):
    monkeypatch.setattr(extra.importlib.util, "find_spec", lambda name: name != absent or None)
    with pytest.raises(ImportError, match=rf"{absent}.*pip install 'keras_pde\[tuner\]'"):
        search(toy(), tmp_path / "s", 1, tuner="bayesian")
    assert not (tmp_path / "s").exists()


# What is shown


def test_devices_share_the_batches_of_trials(toy, tmp_path, monkeypatch):
    wanted = []

    def find(number):
        wanted.append(number)
        return devices.ONE_DEVICE

    monkeypatch.setattr(devices, "find", find)
    path = _file(tmp_path, toy(epochs=1))
    words = ["tune", path, "--trials", "1", "--devices", "2", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    assert wanted == [2]


def test_the_front_holds_what_nothing_beats():
    points = [(0.5, 0.5), (0.6, 0.4), (0.4, 0.4), (0.6, 0.4), (0.6, 0.3)]
    trials = [
        Trial(i, {}, "completed", metrics={"val_accuracy": c, "val_robust_accuracy": r})
        for i, (c, r) in enumerate(points)
    ]
    trials.append(Trial(5, {}, "failed"))
    assert [trial.number for trial in tradeoff.pareto(trials)] == [0, 1, 3]


def test_ranking_follows_the_objective():
    trials = [
        Trial(0, {}, "completed", metrics={"val_loss": 1.0, "val_accuracy": 0.5}),
        Trial(1, {}, "running", metrics={"val_loss": 0.1, "val_accuracy": 0.9}),
        Trial(2, {}, "completed", metrics={"val_loss": 2.0, "val_accuracy": 0.7}),
    ]
    assert [trial.number for trial in ranked(trials, "val_loss")] == [0, 2]
    assert [trial.number for trial in ranked(trials, "val_accuracy")] == [2, 0]
    assert [trial.number for trial in ranked(trials, "val_loss", min_accuracy=0.6)] == [2, 0]


def test_the_table_shows_running_finished_and_failed_trials():
    accuracies = {"val_accuracy": 0.875, "val_robust_accuracy": 0.5}
    trials = [
        Trial(0, {"objective.epsilon": 0.0123456}, "completed", 4, 4, 61.2, accuracies),
        Trial(1, {"objective.epsilon": 0.5}, "failed", 1, 4, 3.0, reason="it is too large"),
        Trial(2, {"objective.epsilon": 0.1}, epoch=2, epochs=4),
    ]
    console = Console(file=io.StringIO(), width=120)
    console.print(tune._table(trials))
    cells = [
        [cell.strip() for cell in line.split("\u2502")[1:-1]]
        for line in console.file.getvalue().splitlines()
        if line.startswith("\u2502")
    ]
    assert cells == [
        ["0", "0.01235", "87.5 %", "50.0 %", "61", "4 epochs"],
        ["1", "0.5", "-", "-", "3", "failed: it is too large"],
        ["2", "0.1", "-", "-", "0", "epoch 2/4"],
    ]
