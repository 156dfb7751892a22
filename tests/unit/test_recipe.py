"""Recipes: what is read, and what is refused."""

import math
import re

import pytest
from recipe_cases import BACKEND, adversarial, evaluation, recipe, tables

from keras_pde import data, recipes
from keras_pde.recipes import Recipe, build, ranges
from keras_pde.recipes.tables import Part, number

# Reading


def test_defaults_and_types():
    read = recipe(training={"epochs": 3, "average": 0})
    assert read.training.batch_size == 128
    assert isinstance(read.training.average, float)
    assert read.objective == (Part("plain"),)
    assert read.optimizer == Part("sgd", {"momentum": 0.9})
    assert read.evaluation == ()
    build.check(read)


def test_one_table_stands_for_a_list_of_one():
    one, many = (recipe(objective=o) for o in (adversarial(), [adversarial()]))
    assert one == many
    assert len(recipe(objective=[adversarial(), {"name": "tikhonov"}]).objective) == 2


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("8/255", 8 / 255),
        ("1/3", 1 / 3),
        ("none", None),
        (["1/2", "none", 3], [0.5, None, 3]),
        ("8/0", "8/0"),
        ("8/", "8/"),
        ("1/2/3", "1/2/3"),
        ("²/3", "²/3"),
        ("linf", "linf"),
        (0.25, 0.25),
    ],
)
def test_numbers_in_quotes(written, meant):
    assert number(written) == meant


def test_fractions_and_none_reach_components_and_sections():
    read = recipe(
        objective=adversarial(epsilon="8/255", bounds="none"),
        data={"validation": "1/4"},
        evaluation=evaluation(epsilons=["8/255", "16/255"]),
    )
    term = build.objective(read).data
    assert (term.epsilon, term.bounds) == (8 / 255, None)
    assert read.data.validation == 0.25
    assert read.evaluation[0].epsilons == (8 / 255, 16 / 255)


def test_text_stays_text():
    read = recipe(title="1/2", name="none")
    assert (read.title, read.name) == ("1/2", "none")


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("0.5", 0.5), ("true", True), ("linf", "linf"), ("8/255", "8/255"), ("[1]", [1])],
)
def test_values_of_the_command_line(text, value):
    assert recipes.parse_value(text) == value


# Refusals


@pytest.mark.parametrize(
    ("changes", "received", "near"),
    [
        ({"titel": "x"}, "key of the recipe 'titel'", "title"),
        ({"values": {"a": 1}}, "key of the recipe 'values'", None),
        ({"data": {"valdation": 0.1}}, r"key of \[data\] 'valdation'", "validation"),
        ({"training": {"epoch": 3}}, r"key of \[training\] 'epoch'", "epochs"),
        ({"validation": {"step": 3}}, r"key of \[validation\] 'step'", "steps"),
        ({"evaluation": evaluation(image=3)}, r"key of \[evaluation\] 'image'", "images"),
        ({"validation": {"norm": "lif"}}, "validation.norm 'lif'", "linf"),
        ({"validation": {"select": "val_acuracy"}}, "validation.select", "val_accuracy"),
        ({"evaluation": evaluation(norm="L2")}, "evaluation.norm 'L2'", "l2"),
        ({"training": {"precision": "bfloat16"}}, "training.precision", "mixed_bfloat16"),
        ({"training": {"decay": "kernel"}}, "training.decay", "kernels"),
        ({"training": {"backend": "Jax"}}, "training.backend", "jax"),
        ({"model": {"name": "mpl"}}, "model 'mpl'", "mlp"),
        ({"model": {"hiden": [3]}}, "argument of 'mlp' 'hiden'", "hidden"),
        ({"model": {"name": "", "from": "mnist"}}, "model 'mnist'", None),
        ({"model": {"name": "", "from": 5}}, "model '5'", None),
        ({"objective": {"name": "tulp"}}, "objective 'tulp'", "tulip"),
        ({"objective": adversarial(stpes=2)}, "argument of objective 'adversarial'", "steps"),
        ({"objective": adversarial(norm="linff")}, "norm 'linff'", "linf"),
        ({"optimizer": {"name": "adm"}}, "optimizer 'adm'", "adam"),
        ({"optimizer": {"name": "optimizer"}}, "optimizer 'optimizer'", None),
        ({"optimizer": {"name": "sgd", "momentun": 1}}, "argument of optimizer 'sgd'", "momentum"),
        ({"schedule": {"name": "onecycle"}}, "schedule 'onecycle'", "one_cycle"),
        (
            {"schedule": {"name": "one_cycle", "peak": 0.1, "warmup": 0.1}},
            "argument of schedule 'one_cycle'",
            "warm_up",
        ),
        ({"evaluation": evaluation(attacks={"name": "pdg"})}, "attack 'pdg'", "pgd"),
        (
            {"evaluation": evaluation(attacks={"name": "pgd", "restart": 2})},
            "argument of attack 'pgd'",
            "restarts",
        ),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(changes, received, near):
    with pytest.raises(ValueError, match=f"Received unknown {received}.*expected one of") as error:
        build.check(recipe(**changes))
    if near is not None:
        assert str(error.value).endswith(f"Did you mean {near!r}?")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": 3}, "title = 3 in the recipe; expected str"),
        ({"data": "mnist"}, r"'mnist' as \[data\]; expected a table"),
        ({"objective": "plain"}, r"'plain' as \[objective\]; expected a table"),
        ({"evaluation": [3]}, r"3 as \[evaluation\]; expected a table"),
        ({"training": {"epochs": "3"}}, r"epochs = '3' in \[training\]; expected int"),
        ({"training": {"epochs": 2.5}}, r"epochs = 2.5 in \[training\]; expected int"),
        ({"training": {"epochs": True}}, r"epochs = True in \[training\]; expected int"),
        ({"training": {"average": "none"}}, r"average = None in \[training\]; expected float"),
        ({"data": {"flip": 1}}, r"flip = 1 in \[data\]; expected bool"),
        ({"data": {"validation": "some"}}, "validation = 'some' .*; expected int or float"),
        ({"caveats": [3]}, "caveats = 3 in the recipe; expected str"),
        ({"search": 3}, "search = 3 in the recipe; expected dict"),
        ({"evaluation": evaluation(epsilons=["big"])}, "epsilons = 'big' .*; expected float"),
        ({"evaluation": {"norm": "l2"}}, r"\[evaluation\] without \['epsilons'\]"),
        ({"model": {"name": 3}}, r"\[model\] without a name"),
        ({"objective": {"epsilon": 0.1}}, r"\[objective\] without a name"),
        ({"objective": {"name": "adversarial"}}, r"without \['norm', 'epsilon'\]"),
        ({"objective": []}, r"objective = \[\]; expected a term"),
        ({"objective": adversarial(epsilon="x")}, "epsilon='x'; expected a finite length"),
        ({"objective": adversarial(epsilon=-1)}, "epsilon=-1; expected a finite length"),
        ({"objective": adversarial(epsilon=8)}, "such as 8/255"),
        ({"schedule": {"name": "one_cycle", "peak": "x"}}, "expected values of other types"),
        ({"optimizer": {"name": "sgd", "momentum": 7}}, "momentum"),
        ({"optimizer": {"name": "sgd", "learning_rate": 1}}, r"it belongs to \[schedule\]"),
        ({"model": {"from": "here"}}, "unknown model 'here'"),
        (
            {"evaluation": evaluation(attacks={"name": "pgd", "epsilon": 0.2})},
            "epsilon for the attack 'pgd'",
        ),
    ],
)
def test_wrong_values_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        build.check(recipe(**changes))


OUTSIDE = {
    "data.validation": (0, 1.5, -1, 0.0),
    "data.limit": (-1,),
    "data.num_classes": (-1,),
    "data.crop": (-1,),
    "data.cutout": (-1,),
    "training.epochs": (0,),
    "training.batch_size": (0,),
    "training.seed": (-1, 2**32),
    "training.label_smoothing": (-0.1, 1.0, math.nan),
    "training.average": (-0.1, 1.0, math.nan),
    "validation.steps": (0,),
    "validation.images": (0,),
    "validation.every": (0,),
    "validation.patience": (-1,),
    "evaluation.images": (-1,),
    "evaluation.seed": (-1,),
    "validation.epsilon": (0.0, -1.0, 8, math.nan),
    "evaluation.epsilons": ([], [0.1, 0.0], [8], [math.nan]),
}


def test_every_range_is_tried():
    assert ranges._RANGES.keys() < OUTSIDE.keys()


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in OUTSIDE.items() for value in values]
)
def test_values_out_of_range_are_refused(key, value):
    section, name = key.split(".")
    values = {**(evaluation() if section == "evaluation" else {}), name: value}
    with pytest.raises(ValueError, match=rf"Received {re.escape(key)} = .*; expected"):
        recipe(**{section: values})


@pytest.mark.parametrize("section", ["title", "data", "model", "training"])
def test_missing_sections_are_refused(section):
    values = tables()
    del values[section]
    with pytest.raises(ValueError, match=rf"without \['{section}'\]"):
        Recipe.of(values)


def test_a_recipe_for_another_backend_is_refused():
    other = "jax" if BACKEND == "tensorflow" else "tensorflow"
    with pytest.raises(ValueError, match=f"backend '{other}'; this is .*KERAS_BACKEND={other}"):
        build.check(recipe(training={"backend": other}))
    build.check(recipe(training={"backend": BACKEND}))


def test_checks_read_no_data(monkeypatch):
    monkeypatch.setattr(data, "load", None)
    with pytest.raises(ValueError, match="unknown optimizer"):
        recipes.train(recipe(optimizer={"name": "sdg"}), "never")


@pytest.mark.parametrize("name", ["lion", "muon", "adam"])
def test_optimizers_of_keras(name):
    schedule = {"name": "one_cycle", "peak": 0.01}
    told = recipe(optimizer={"name": name, "clipnorm": 1.0}, schedule=schedule)
    made = build.optimizer(told, steps=10)
    assert type(made).__name__.lower() == name
    assert made.clipnorm == 1.0
    made.iterations.assign(2)  # of 3 that rise from a tenth of the peak
    assert float(made.learning_rate) == pytest.approx(0.001 + 2 / 3 * 0.009, rel=1e-5)
