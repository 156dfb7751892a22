"""The engine that runs attacks: what is compiled and counted, and what attacks may ask for."""

import numpy as np
import pytest
from attack_cases import (
    JAX,
    classes,
    equidistant,
    kernel_of,
    linear,
    not_on_jax,
    other_value,
    vectors,
)
from keras import ops

import keras_pde as kp
from keras_pde import geometry, registry
from keras_pde.attacks import FGSM, PGD, Attack, IteratedAttack, MinimalDistance, Target
from keras_pde.attacks.attack import Goal

# What is compiled, and what is counted


def count_traces(target):
    """How often the model is traced from now on: compiled programs do not run this."""
    calls = []

    def counted(logits):
        def call(*arguments):
            calls.append(1)
            return logits(*arguments)

        return call

    prepared = target.prepared  # folded, on TensorFlow
    target.prepared = lambda: counted(prepared())
    target.logits = counted(target.logits)
    return calls


def test_one_target_serves_many_attacks_without_new_traces():
    model, x = linear(kernel_of(3)), vectors(8, 7)
    y = classes(model, x)
    shared = Target(model, x)
    variants = [
        PGD("l2", 0.3, steps=5, seed=1),
        PGD("l2", 0.1, steps=9, seed=2, step_size=0.02),
        PGD("l2", 0.9, steps=3, restarts=2, random_start=True),
        FGSM("l2", 0.2),
    ]
    results = [variants[0](shared, x, y)]
    traces = count_traces(shared)
    results += [attack(shared, x, y) for attack in variants[1:]]
    assert len(traces) == 0
    for attack, result in list(zip(variants, results, strict=True))[-2 if JAX else 0 :]:
        fresh = attack(model, x, y)
        np.testing.assert_array_equal(fresh.adversarial, result.adversarial)
        np.testing.assert_array_equal(fresh.status, result.status)


@not_on_jax
@pytest.mark.parametrize("entry", registry.entries("attack"), ids=lambda entry: entry.name)
def test_one_target_keeps_attacks_apart_that_differ_in_any_argument(entry):
    """What was compiled for one must not serve another: each beside a target of its own."""
    kernel, x = kernel_of(3), 0.45 + vectors(8, 7) / 10
    model = linear(kernel, -0.5 * kernel.sum(axis=0))  # all classes meet in the middle
    y = classes(model, x)
    shared = Target(model, x)
    base = entry.component(**entry.example)
    first = base(shared, x, y)
    differing = 0
    for name, value in base.get_config().items():
        attack = entry.component(**{**entry.example, name: other_value(name, value)})
        found, fresh = attack(shared, x, y), attack(model, x, y)
        np.testing.assert_array_equal(found.adversarial, fresh.adversarial, err_msg=name)
        differing += not np.array_equal(fresh.adversarial, first.adversarial)
    assert differing >= 3, "arguments that change nothing would prove little"


def test_new_weights_are_seen():
    kernel = kernel_of(2)
    x, y = equidistant(kernel, "l2", 1.0)
    model = linear(kernel)
    target = Target(model, x)
    attack = PGD("l2", 1.5, bounds=None, random_start=False)
    assert attack(target, x, y).success.all()
    model.layers[0].set_weights([-kernel, np.zeros(2)])
    assert set(attack(target, x, y).status) == {"misclassified"}
    model.layers[0].set_weights([kernel, np.where([True, False], 100.0, 0.0)])
    zeros = np.zeros(len(x), "int32")
    assert set(attack(target, x, zeros).status) == {"not_found"}


def test_passes_are_counted():
    kernel = kernel_of(2)
    x, y = equidistant(kernel, "l2", 1.0, count=10)
    y[0] = 1 - y[0]  # wrong from the start: one prediction, nothing else
    target = Target(linear(kernel), x)
    attack = PGD("l2", 3.0, steps=20, step_size=0.3, random_start=False, bounds=None)
    # Steps of 0.3 are across at the fourth: images 0 to 4 are evaluated, the rest saved.
    short = attack(target, x, y, batch_size=4)
    assert (short.forward_passes, short.backward_passes) == (10 + 9 * 5 + 9, 9 * 5)
    full = attack(target, x, y, batch_size=4, early_exit=False)
    assert (full.forward_passes, full.backward_passes) == (10 + 9 * 20 + 9, 9 * 20)
    np.testing.assert_allclose(short.distance[1:], 1.2, rtol=1e-5)
    assert short.seconds > 0


# What attacks may ask for


class RandomSearch(IteratedAttack):
    """Forward passes only: tries random directions, keeps what raises the loss."""

    needs, loss, steps = "forward", "margin", 30
    in_state = ("epsilon", "restarts", "seed")

    def __init__(self, norm, epsilon=None, bounds=None):
        super().__init__(norm, epsilon, bounds)

    def start(self, x, keys):
        lowest = -float("inf") * ops.ones((x.shape[0],), dtype=x.dtype)
        zero = ops.zeros((x.shape[0],), dtype="int32")
        radius = self.epsilon * ops.ones((x.shape[0],), dtype=x.dtype)
        return {"images": x, "held": x, "loss": lowest, "keys": keys, "k": zero, "radius": radius}

    def advance(self, state, evaluated, x):
        assert evaluated.gradient is None and evaluated.class_jacobian is None
        better = evaluated.losses > state["loss"]
        held = ops.where(better[:, None], state["images"], state["held"])
        keys = state["keys"] + ops.stack([ops.zeros_like(state["k"]), state["k"]], axis=1)
        step = geometry.get(self.norm).random(keys, x.shape[1:], state["radius"])
        k = state["k"] + 1
        return {
            "images": x + geometry.get(self.norm).project(held + step - x, state["radius"]),
            "held": held,
            "loss": ops.maximum(evaluated.losses, state["loss"]),
            "best": ops.where(evaluated.fooled[:, None], state["images"], state["best"]),
            "fooled": state["fooled"] | evaluated.fooled,
            "k": k,
            "done": k >= self.steps,
        }


class LinearStep(IteratedAttack):
    """Class gradients: one step just across the nearest boundary of the linearised model."""

    needs, loss, minimal = "class_jacobian", "margin", True

    def __init__(self, norm, bounds=None):
        super().__init__(norm, bounds=bounds)

    def start(self, x, keys):
        return {"images": x, "k": ops.zeros((x.shape[0],), dtype="int32")}

    def advance(self, state, evaluated, x):
        z, matrix, y = evaluated.logits, evaluated.class_jacobian, evaluated.labels
        assert evaluated.gradient is None
        chosen = ops.one_hot(y, z.shape[-1], dtype=z.dtype)
        gap = ops.sum(chosen * z, axis=-1, keepdims=True) - z
        normal = matrix - ops.sum(chosen[:, :, None] * matrix, axis=1, keepdims=True)
        length = ops.sqrt(ops.sum(ops.square(normal), axis=-1))
        distance = ops.where(chosen > 0, float("inf"), gap / ops.where(chosen > 0, 1.0, length))
        nearest = ops.one_hot(ops.argmin(distance, axis=1), z.shape[-1], dtype=z.dtype)
        direction = ops.sum(nearest[:, :, None] * normal, axis=1)
        size = ops.sum(ops.where(nearest > 0, gap, 0.0), axis=1, keepdims=True)
        step = 1.0001 * size * direction / ops.sum(ops.square(direction), axis=1, keepdims=True)
        first = ops.equal(state["k"], 0)
        return {
            "images": ops.where(first[:, None], x + step, state["images"]),
            "best": ops.where(evaluated.fooled[:, None], state["images"], state["best"]),
            "fooled": state["fooled"] | evaluated.fooled,
            "k": state["k"] + 1,
            "done": ~first,
        }


@pytest.mark.parametrize("kind", [RandomSearch, LinearStep])
def test_attacks_pay_for_what_they_ask(kind):
    kernel = kernel_of(4)
    x, y = equidistant(kernel, "l2", 0.5)
    model = linear(kernel)
    if kind is RandomSearch:
        found = kind("l2", 1.5)(model, x, y, early_exit=False)
        assert found.backward_passes == 0 < found.forward_passes == 12 * (1 + 30 + 1)
        assert found.success.mean() > 0.5
    else:
        found = kind("l2")(model, x, y, batch_size=5, early_exit=False)
        np.testing.assert_allclose(found.distance, 0.5, rtol=1e-3)
        assert (found.forward_passes, found.backward_passes) == (12 * (1 + 2 + 1), 12 * 2 * 4)
    with pytest.raises(ValueError, match="Did you mean 'gradient'"):
        type("Wrong", (kind,), {"needs": "gradients"})("l2", *[1.0] * (kind is RandomSearch))(
            model, x, y
        )


class EachClass(PGD):
    """Untargeted in what counts, but each restart goes for another class."""

    def aim(self, goal, logits, restart):
        others = np.argsort(-logits, axis=1)
        return Goal(goal.labels, others[:, restart + 1].astype("int32"), goal.targeted)


def test_what_is_pursued_is_not_what_is_counted():
    kernel = kernel_of(4)
    x, y = equidistant(kernel, "l2", 1.0, count=40)
    attack = EachClass("l2", 1.5, steps=10, restarts=3, bounds=None)
    found = attack(linear(kernel), x, y)
    assert found.success.all(), "the nearest boundary is that of one of the three"
    one = EachClass("l2", 1.5, steps=10, bounds=None)(linear(kernel), x, y)
    far = one.status == "not_found"
    assert far.any(), "with one restart the class pursued is not always the nearest"
    pursued = np.argsort(-x @ kernel, axis=1)[:, 1]
    reached = classes(linear(kernel), one.adversarial)
    np.testing.assert_array_equal(reached[~far] != y[~far], True)
    assert np.mean(reached[~far] == pursued[~far]) > 0.5


class Both(Attack):
    """An attack made of others."""

    def __init__(self, attacks):
        super().__init__(attacks[0].norm, attacks[0].epsilon, attacks[0].bounds)
        self.attacks = attacks

    def searches(self):
        for attack in self.attacks:
            yield from attack.searches()


def test_an_attack_may_be_made_of_others():
    kernel = kernel_of(2)
    x, y = equidistant(kernel, "l2", 1.0)
    y[:4] = 1 - y[:4]
    target = Target(linear(kernel), x)
    weak, strong = (PGD("l2", e, steps=5, bounds=None, random_start=False) for e in (0.5, 1.2))
    one, both = strong(target, x, y), Both((weak.at(1.2), strong))(target, x, y)
    np.testing.assert_array_equal(one.adversarial, both.adversarial)
    # The radius is that of the whole.
    assert not Both((weak, strong))(target, x, y).success[4:].any()
    assert Both((weak, strong)).at(1.2)(target, x, y).success.all()
    nowhere = Both((strong.at(None), MinimalDistance("l2", bounds=None)))
    report = kp.evaluate(target, x, y, norm="l2", bounds=None, epsilons=[0.5, 1.2], attacks=nowhere)
    assert [report.robust_accuracy(epsilon) for epsilon in (0.5, 1.2)] == [
        np.mean(one.distance > 0),
        0.0,
    ]
    report = Both((weak.at(1.2), strong))
    assert report.label == "Both" and report.at(0.1).epsilon == 0.1
