"""[search]: what is understood, what is refused before the first trial, and what a trial gets."""

from pathlib import Path

import pytest
from recipe_cases import recipe

import keras_pde
from keras_pde.tuner import Space, spaces
from keras_pde.tuner.hypermodel import _value
from keras_pde.tuner.space import corners

OBJECTIVE = {"name": "adversarial", "norm": "linf", "epsilon": 0.1}


def _recipe(search, **tables):
    given = {
        "model": {"name": "small_cnn"},
        "objective": OBJECTIVE,
        "optimizer": {"name": "sgd"},
        **tables,
    }
    return recipe(search=search, **given)


@pytest.mark.parametrize(
    ("key", "table", "space"),
    [
        (
            "objective.epsilon",
            {"low": 0.01, "high": "8/255", "log": True},
            Space("objective.epsilon", 0.01, 8 / 255, log=True),
        ),
        ("model.width", {"low": 4, "high": 16, "step": 4}, Space("model.width", 4, 16, 4)),
        (
            "optimizer.momentum",
            {"choices": [0.0, 0.9]},
            Space("optimizer.momentum", choices=(0.0, 0.9)),
        ),
        (
            "objective",
            {"choices": [{"name": "plain"}, {"name": "tulip", "epsilon": 0.1, "weight": 0.1}]},
            Space(
                "objective",
                choices=({"name": "plain"}, {"name": "tulip", "epsilon": 0.1, "weight": 0.1}),
            ),
        ),
    ],
)
def test_tables_are_understood(key, table, space):
    assert spaces(_recipe({key: table})) == (space,)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({}, r"without \[search\]"),
        ({"objective.epsilon": 0.1}, "expected a table"),
        ({"objective.epsilon": {"low": 0.1}}, "expected numbers low and high"),
        ({"objective.epsilon": {"low": 0.1, "high": "much"}}, "expected numbers"),
        ({"objective.epsilon": {"low": 0.2, "high": 0.1}}, "expected low < high"),
        ({"objective.epsilon": {"low": 0.0, "high": 0.1, "log": True}}, "a positive low"),
        ({"objective.epsilon": {"low": 0.1, "high": 0.2, "log": "yes"}}, "log = true"),
        ({"objective.epsilon": {"low": 0.1, "high": 0.2, "step": 0.0}}, "a positive step"),
        ({"objective.epsilon": {"low": 0.1, "hihg": 0.2}}, "'hihg'.*Did you mean 'high'"),
        ({"objective.epsilon": {"choices": [0.1]}}, "at least two values"),
        ({"objective.epsilon": {"choices": [0.1, 0.2], "low": 0.1}}, "nothing else"),
        ({"objectiv.epsilon": {"low": 0.1, "high": 0.2}}, "Did you mean 'objective'"),
        ({"objective.epsilom": {"low": 0.1, "high": 0.2}}, "Did you mean 'epsilon'"),
        ({"model.widht": {"low": 2, "high": 4}}, "Did you mean 'width'"),
        ({"training.batch": {"low": 2, "high": 4}}, "Did you mean 'batch_size'"),
        ({"objective.epsilon": {"low": -0.1, "high": 0.2}}, r"In \[search\], at .* = -0.1"),
        ({"training.average": {"low": 0.5, "high": 1.5}}, r"training.average = 1.5"),
        ({"data.crop": {"low": 0.5, "high": 1.5}}, "expected int"),
        ({"training.epochs": {"low": 1, "high": 5}}, "trials are compared"),
        ({"data.name": {"choices": ["mnist", "cifar10"]}}, "trials are compared"),
        ({"validation.epsilon": {"low": 0.1, "high": 0.2}}, "unknown table of a key"),
    ],
)
def test_mistakes_show_before_the_first_trial(search, message):
    with pytest.raises(ValueError, match=message):
        spaces(_recipe(search))


def test_corners_hold_each_end_and_complete_the_recipe():
    search = {
        "objective.epsilon": {"low": 0.1, "high": 0.3},
        "optimizer.momentum": {"choices": [0.0, 0.5, 0.9]},
    }
    # Without epsilon the recipe itself is not complete: each trial has one.
    recipe = _recipe(search, objective={"name": "adversarial", "norm": "linf"})
    assert corners(spaces(recipe)) == [
        {"objective.epsilon": 0.1, "optimizer.momentum": 0.0},
        {"objective.epsilon": 0.3, "optimizer.momentum": 0.0},
        {"objective.epsilon": 0.1, "optimizer.momentum": 0.0},
        {"objective.epsilon": 0.1, "optimizer.momentum": 0.5},
        {"objective.epsilon": 0.1, "optimizer.momentum": 0.9},
    ]


class _Last:
    """Stands for Keras Tuner's `hp`: always the upper end, a little off as in float32."""

    def Int(self, key, low, high, step, sampling):
        return high

    def Float(self, key, low, high, step, sampling):
        return high + 1e-9

    def Choice(self, key, labels):
        assert all(isinstance(label, str) for label in labels)
        return labels[-1]


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (Space("a.b", 1, 8), 8),
        (Space("a.b", 1, 8, 0.5), 8.0),
        (Space("a.b", 0.1, 0.25), 0.25),
        (Space("a.b", 0.1, 0.123456789), 0.123456789),
        (Space("a.b", 0.1, 0.123456489), 0.123456),
        (Space("a.b", choices=(0, 0.5, True)), True),
        (Space("a.b", choices=("none", 3)), 3),
        (Space("a.b", choices=([1, 1], [2, 2])), [2, 2]),
        (Space("a", choices=({"name": "plain"}, {"name": "tulip"})), {"name": "tulip"}),
    ],
)
def test_values_keep_their_type_and_stay_short(space, value):
    received = _value(space, _Last())
    assert received == value
    assert type(received) is type(value)


def test_keras_tuner_is_imported_for_searches_only():
    package = Path(keras_pde.__file__).parent
    importing, at_once = set(), set()
    for path in package.rglob("*.py"):
        for line in path.read_text().splitlines():
            words = line.split()
            if words[:1] in (["import"], ["from"]) and "keras_tuner" in words[1].split("."):
                importing.add(path.name)
            if line.startswith(("from keras_pde.tuner", "import keras_pde.tuner")):
                at_once.add(path.parent.name)
    assert importing == {"extra.py"}
    assert at_once == {"tuner"}
