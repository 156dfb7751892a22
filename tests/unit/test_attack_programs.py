"""Which program an attack runs: what is compiled depends on all that it reads."""

from types import SimpleNamespace

import numpy as np
import pytest
from attack_cases import classes, equidistant, kernel_of, linear, vectors
from keras import ops

import keras_pde as kp
from keras_pde.attacks import PGD, Target


class Stretched(PGD):
    """Its argument is named in no list."""

    def __init__(self, norm, epsilon=None, factor=1.0):
        super().__init__(norm, epsilon, steps=3, random_start=False)
        self.factor = factor

    def advance(self, state, evaluated, x):
        return super().advance(
            {**state, "step_size": self.factor * state["step_size"]}, evaluated, x
        )


class Backwards(PGD):
    """Another method in place of a part of the iteration."""

    def advance(self, state, evaluated, x):
        return super().advance({**state, "step_size": -state["step_size"]}, evaluated, x)


def test_arguments_and_methods_that_nobody_declared_are_compiled_anew():
    kernel = kernel_of(2)
    x, y = equidistant(kernel, "l2", 0.9)
    model, shared = linear(kernel), Target(linear(kernel), x)
    for attack in (
        Stretched("l2", 1.0, factor=1.0),
        Stretched("l2", 1.0, factor=0.01),
        PGD("l2", 1.0, steps=3, bounds=(-99, 99), random_start=False),
        Backwards("l2", 1.0, steps=3, bounds=(-99, 99), random_start=False),
    ):
        attack.threat = kp.Threat("l2", 1.0, (-99, 99))
        found, fresh = attack(shared, x, y).success, attack(model, x, y).success
        np.testing.assert_array_equal(found, fresh)
        strong = getattr(attack, "factor", 1.0) == 1 and not isinstance(attack, Backwards)
        assert found.all() if strong else not found.any()


class Signed(PGD):
    """What it reads is no argument, or can change."""

    signs = [1.0]

    def __init__(self, norm, epsilon=None, sign=None):
        super().__init__(norm, epsilon, steps=3, random_start=False, bounds=(-99, 99))
        self.sign = sign or SimpleNamespace(value=1.0)
        self.hidden = 1

    def advance(self, state, evaluated, x):
        sign = self.signs[0] * self.sign.value * (-1 if self.hidden is True else 1)
        return super().advance({**state, "step_size": sign * state["step_size"]}, evaluated, x)


def test_what_changes_in_an_attack_is_compiled_anew(monkeypatch):
    kernel = kernel_of(2)
    x, y = equidistant(kernel, "l2", 0.9)
    attack, shared = Signed("l2", 1.0), Target(linear(kernel), x)
    assert attack(shared, x, y).success.all()
    attack.sign.value = -1.0
    assert not attack(shared, x, y).success.any()
    attack.sign.value, attack.hidden = 1.0, True  # which is equal to 1
    assert not attack(shared, x, y).success.any()
    attack.hidden = 1
    monkeypatch.setattr(Signed, "signs", [-1.0])
    assert not attack(shared, x, y).success.any()


class Endless(PGD):
    def __init__(self, norm, epsilon=None, what="done"):
        super().__init__(norm, epsilon)
        self.what = what

    def start(self, x, keys):
        state = super().start(x, keys)
        if self.what == "images":
            del state["images"]
        if self.what == "scalar":
            state["left"] = ops.ones((1,))
        return state

    def advance(self, state, evaluated, x):
        found = super().advance(state, evaluated, x)
        if self.what == "done":
            del found["done"]
        return {**found, "more": state["left"]} if self.what == "more" else found


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("done", "without which it never ends"),
        ("more", "'more'.* from `advance` of Endless"),
        ("images", "`images` among them"),
        ("scalar", r"\['left'\] have not one entry an example"),
    ],
)
def test_a_state_that_is_none_is_refused(what, message):
    x = vectors(8, 7)
    model = linear(kernel_of(3))
    with pytest.raises(ValueError, match=message):
        Endless("l2", 0.1, what)(model, x, classes(model, x))
