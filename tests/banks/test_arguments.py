"""Every argument of every component: what it is not made for is refused in the same words."""

import inspect

import numpy as np
import pytest

from keras_pde import registry

WRONG = {
    "nan": float("nan"),
    "infinity": float("inf"),
    "negative integer": -1,
    "negative": -0.5,
    "flag": True,
    "text": "a",
    "none": None,
}
# What some arguments mean by a value that is wrong for nearly all others.
MEANT = {
    "none": {"activation", "bounds", "kernel_initializer", "top_k"},
    "negative integer": {"f_star", "sign", "stitch"},
    "negative": {"f_star", "stitch"},
    "text": {"name"},
    "flag": {"unroll"},
}
# Keras reads these, and refuses them in its own words.
KERAS_READS = {"activation", "kernel_initializer", "learning_rate", "name"}
# Of these components the example, or a list of choices, leaves no room for it.
NOT_HERE = {
    ("continuous_net", "activation", "none"),
    ("preact_resnet", "activation", "none"),
    ("resnext34_2x32", "tanh_logits", "flag"),
}

CASES = [
    pytest.param(entry, name, id=f"{entry.name}-{name}")
    for kind in registry.KINDS
    for entry in registry.entries(kind)
    for name, parameter in inspect.signature(entry.component).parameters.items()
    if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("entry", "name"), CASES)
def test_wrong_values_are_refused(entry, name):
    default = inspect.signature(entry.component).parameters[name].default
    for what, value in WRONG.items():
        by_default = {"none": default is None, "flag": isinstance(default, bool)}
        meant = name in MEANT.get(what, ()) or by_default.get(what)
        if meant and (entry.name, name, what) not in NOT_HERE:
            entry.component(**{**entry.example, name: value})
            continue
        expected = "" if name in KERAS_READS else r"Received (?s:.)*expected"
        with pytest.raises(ValueError, match=expected):
            entry.component(**{**entry.example, name: value})
            pytest.fail(f"accepted {name} = {value!r}")


@pytest.mark.parametrize("entry", registry.entries("optimizer"), ids=lambda entry: entry.name)
def test_wrong_weight_decay_is_refused(entry):
    if "inner_optimizer" in inspect.signature(entry.component).parameters:
        pytest.skip("weight decay is the inner optimizer's")
    for value in (-1, np.nan, "a", True):
        with pytest.raises(ValueError, match=r"Received weight_decay=.*at least 0"):
            entry.component(**{**entry.example, "weight_decay": value})
