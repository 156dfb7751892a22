"""Recipe files that extend others, and changes of recipes."""

import os

import numpy as np
import pytest
from recipe_cases import adversarial, evaluation, recipe, tables

from keras_pde import recipes
from keras_pde.recipes import Recipe, build
from keras_pde.recipes.tables import Part

# Files


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


BASE = """
title = "base"
[data]
name = "mnist"
crop = 2
[model]
name = "small_cnn"
width = 8
[objective]
name = "adversarial"
norm = "linf"
epsilon = "8/255"
[training]
epochs = 5
[[evaluation]]
norm = "linf"
epsilons = [0.1]
[[evaluation]]
norm = "l2"
epsilons = [0.5]
"""


def test_a_file_that_extends_another_states_what_differs(tmp_path):
    write(tmp_path, "base.toml", BASE)
    write(tmp_path, "middle.toml", 'extends = "base.toml"\n[training]\nseed = 3')
    (tmp_path / "below").mkdir()
    own = """
extends = "../middle.toml"
title = "own"
[data]
name = "cifar10"
[model]
width = 4
[objective]
name = "tulip"
epsilon = 0.01
weight = 0.1
[training]
epochs = 6
[[evaluation]]
norm = "l1"
epsilons = [1]
"""
    read = recipes.load(write(tmp_path / "below", "own.toml", own))
    assert read.title == "own"
    assert (read.data.name, read.data.crop) == ("cifar10", 2)
    assert read.model == Part("small_cnn", {"width": 4})
    assert read.objective == (Part("tulip", {"epsilon": 0.01, "weight": 0.1}),)
    assert (read.training.epochs, read.training.seed) == (6, 3)
    assert [e.norm for e in read.evaluation] == ["l1"]
    assert "extends" not in read.values


def test_a_model_to_start_from_replaces_the_architecture(tmp_path):
    write(tmp_path, "base.toml", BASE)
    own = write(tmp_path, "own.toml", 'extends = "base.toml"\n[model]\nfrom = "mnist/small"')
    assert recipes.load(own).model == Part("", {"from": "mnist/small"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "own.toml"', "extends this recipe in turn"),
        ('\ufeffextends = "own.toml"', "extends this recipe in turn"),  # after a mark
        ('extends = "other.toml"', "extends this recipe in turn"),
        ('extends = "nowhere.toml"', "'nowhere.toml'; expected a file beside own.toml"),
        ("extends = 3", "extends = 3; expected a file"),
        ('extends = "broken.toml"', "broken.toml, which is not TOML"),
        ("title = ", "own.toml, which is not TOML"),
        ("title = " + "[" * 10**4, "own.toml, which is not TOML"),
        ("title = 3", "the recipe without"),
    ],
)
def test_unfit_files_are_refused(tmp_path, text, message):
    write(tmp_path, "other.toml", 'extends = "own.toml"')
    write(tmp_path, "broken.toml", "[data")
    path = write(tmp_path, "own.toml", text)
    with pytest.raises(ValueError, match=message) as error:
        recipes.load(path)
    assert f"In {path}" in str(error.value)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="which is no file"):
        recipes.load(tmp_path / "absent.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not TOML"):
        recipes.load(tmp_path / "bytes.toml")


# Changes


def test_replaced():
    read = recipe(objective=[adversarial(), {"name": "tikhonov"}], evaluation=[evaluation()])
    changed = read.replaced(
        {
            "training.epochs": 7,
            "validation.steps": 3,
            "objective.0.epsilon": 0.2,
            "evaluation.0.attacks": [{"name": "fgsm"}],
            "model": {"name": "small_cnn", "width": 3},
            "objective.1": {"name": "tulip", "top_k": None},
        }
    )
    assert (changed.training.epochs, changed.validation.steps) == (7, 3)
    assert changed.objective[0].arguments["epsilon"] == 0.2
    assert changed.objective[1] == Part("tulip", {"top_k": None})
    assert changed.evaluation[0].attacks == (Part("fgsm"),)
    assert changed.model == Part("small_cnn", {"width": 3})
    assert read.training.epochs == 2
    assert read.objective[0].arguments["epsilon"] == 0.1


def test_replaced_argument_of_a_default_keeps_its_component():
    changed = recipe().replaced({"schedule.peak": 0.2, "optimizer.nesterov": True})
    assert changed.schedule == Part("one_cycle", {"peak": 0.2})
    assert changed.optimizer == Part("sgd", {"momentum": 0.9, "nesterov": True})


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("training.epcohs", "Did you mean 'epochs'"),
        ("trainig.epochs", "Did you mean 'training'"),
        ("title.long", "'title' is a value"),
        ("objective.epsilon", "expected a number from 0 to 0"),
        ("objective.1.epsilon", "expected a number from 0 to 0"),
        ("objective.-1.epsilon", "expected a number from 0 to 0"),
        ("", "unknown key of the recipe ''"),
    ],
)
def test_replaced_refuses_wrong_keys(key, message):
    with pytest.raises(ValueError, match=message):
        recipe(objective=[adversarial()]).replaced({key: 1})


def test_a_recipe_owns_its_tables():
    values = tables(objective=[adversarial()])
    read = Recipe.of(values)
    values["objective"][0]["epsilon"] = 5
    assert read.values["objective"][0]["epsilon"] == 0.1


def test_toml_round_trip(tmp_path):
    read = recipe(
        objective=[adversarial(epsilon="8/255", bounds=None), {"name": "tikhonov"}],
        caveats=("one", 'with "quotes" and ümlaut'),
        evaluation=[evaluation(attacks=[{"name": "pgd", "steps": 3}])],
        search={"objective.0.epsilon": {"kind": "float", "low": 0.1, "high": 0.2}},
    )
    again = recipes.load(write(tmp_path, "again.toml", read.to_toml()))
    assert again == read
    assert again.values == read.values


@pytest.mark.parametrize("key", [{"norm": "l2"}, {"epsilon": 0.1}, {"bounds": [0, 255]}])
def test_attacks_of_an_evaluation_have_its_threat(key):
    """Said before training, not after it."""
    evaluation = {"norm": "linf", "epsilons": [0.1], "attacks": {"name": "pgd", **key}}
    with pytest.raises(ValueError, match=f"Received {next(iter(key))} for the attack 'pgd'"):
        build.check(recipe(evaluation=[evaluation]))


def test_a_validation_by_another_threat_is_told_unless_it_is_wanted():
    l2 = {"objective": {"name": "adversarial", "norm": "l2", "epsilon": 0.5}}
    note = build.validation_note(recipe(**l2))
    assert "to linf 0.1, the default; the objective is about l2 0.5" in note
    for wanted in (
        recipe(),
        recipe(objective={"name": "adversarial", "norm": "linf", "epsilon": 0.1}),
        recipe(**l2, validation={"norm": "linf"}),
        recipe(**l2, validation={"select": "last"}),
    ):
        assert build.validation_note(wanted) is None


def test_files_are_looked_for_beside_the_recipe(tmp_path, monkeypatch):
    folder = tmp_path / "a folder"
    (folder / "mnist").mkdir(parents=True)
    x, y = np.zeros((20, 4, 4, 1), "float32"), np.arange(20) % 2
    np.savez(folder / "own.npz", x_train=x, y_train=y, x_test=x[:5], y_test=y[:5])
    written = recipe(data={"name": "own.npz"})
    (folder / "own.toml").write_text(written.to_toml())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    read = recipes.load("a folder/own.toml")
    for made in (read, read.replaced({"training.epochs": 3})):
        assert made.found("own.npz") == str(folder / "own.npz") and made.data.name == "own.npz"
        assert build.dataset(made)[0].x_train.shape == (20, 4, 4, 1)
    assert read == written and written.found("own.npz") == "own.npz"
    with pytest.raises(FileNotFoundError, match="mnist"):  # a name stays a name
        build.dataset(read.replaced({"data.name": "mnist"}), data_dir=tmp_path)


def test_files_are_beside_the_recipe_that_names_them(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "own.npz").touch()
    base = BASE.replace('name = "mnist"', 'name = "own.npz"')
    assert base != BASE
    write(tmp_path / "inner", "base.toml", base)
    read = recipes.load(write(tmp_path, "own.toml", 'extends = "inner/base.toml"'))
    assert read.data.name == os.path.join("inner", "own.npz")
