"""The engine that runs attacks: what is compiled and counted, what it corrects, precision."""

import keras
import numpy as np
import pytest
from attack_cases import (
    JAX,
    NORMS,
    boundary,
    classes,
    equidistant,
    functional,
    kernel_of,
    length,
    linear,
    not_on_jax,
    other_value,
    vectors,
)
from keras import layers, ops

import keras_pde as kp
from keras_pde import geometry, registry
from keras_pde.attacks import FGSM, PGD, Attack, IteratedAttack, MinimalDistance, Target
from keras_pde.attacks.attack import Goal, Task

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


# What the engine corrects


class Liar(IteratedAttack):
    """Claims that every image is fooled, by an image that is not one."""

    loss = "margin"
    label = "liar"

    def __init__(self, norm, lie, epsilon=0.1, bounds=(0.0, 1.0)):
        super().__init__(norm, epsilon, bounds)
        self.lie = lie

    def start(self, x, keys):
        return {"images": x}

    def advance(self, state, evaluated, x):
        yes = ops.ones_like(state["fooled"])
        if self.lie == "far":
            best = x + 50.0
        elif self.lie == "nan":
            best = x * float("nan")
        elif self.lie == "one nan":
            index = ops.arange(x.shape[1])
            best = ops.where(index == 0, x * float("nan"), x + 0.01)
        elif self.lie == "infinite":
            best = x + float("inf")
        else:
            best = x
        return {"images": best, "best": best, "fooled": yes, "done": yes}


@pytest.mark.parametrize(
    ("norm", "lie"),
    [(norm, lie) for norm in NORMS for lie in ("far", "one nan")]
    + [("linf", "nan"), ("l2", "infinite"), ("linf", "infinite"), ("l1", "clean")],
)
def test_the_engine_corrects_a_lying_attack(norm, lie):
    kernel = np.stack([np.zeros(6), np.ones(6)], axis=1)
    model = linear(kernel, [3.2, 0.0])
    x = np.full((4, 6), 0.5, "float32")  # margin -0.2; 0.1 a pixel is enough, 0.1 in all is not
    y = np.zeros(4, "int32")
    found = Liar(norm, lie)(model, x, y)
    assert np.isfinite(found.adversarial).all()
    assert length(found.adversarial - x, norm).max() <= 0.1 + 1e-6
    wrong = classes(model, found.adversarial) != y
    np.testing.assert_array_equal(found.success, wrong)
    # Brought back to the ball, the far image is an honest one where the ball is large enough.
    honest = (norm, lie) in {("linf", "far"), ("linf", "infinite"), ("l2", "far")}
    assert set(found.status) == {"found" if honest else "not_found"}


@pytest.mark.parametrize(
    ("norm", "epsilon"), [("linf", 1e-4), ("linf", 1e-3), ("l2", 1e-4), ("l1", 1e-3)]
)
def test_rounding_at_the_surface_of_a_small_ball_loses_nothing(norm, epsilon):
    """Near 1 the grid of float32 is 6e-8 wide: more than 1e-5 of a small epsilon."""
    size = 64
    w = np.where(np.arange(size) % 2, 1.0, -1.0)
    x = np.random.default_rng(1).uniform(0.75, 0.95, size=(20, size))
    x = (x - np.outer(x @ w, w) / size).astype("float32")  # now x @ w = 0
    # All have the same margin, which takes 95 % of the radius.
    gain = {"linf": size, "l2": np.sqrt(size), "l1": 1.0}[norm] * epsilon
    model = linear(np.stack([np.zeros(size), w], axis=1), [0.95 * gain, 0.0])
    y = np.zeros(20, "int32")
    found = PGD(norm, epsilon, steps=5, random_start=False, bounds=None)(model, x, y)
    assert set(found.status) == {"found"}
    exact = length(found.adversarial.astype("float64") - x, norm)
    assert exact.min() > 0.94 * epsilon and exact.max() <= epsilon * (1 + 1e-5)


def test_clean_images_at_the_boundary_still_have_to_move():
    """A tie by rounding must not end the search with the clean image."""

    class Moody(PGD):
        def advance(self, state, evaluated, x):
            new = super().advance(state, evaluated, x)
            clean = ops.all(ops.equal(state["images"], x), axis=1)
            return {**new, "seen": state["seen"] | (clean & evaluated.fooled)}

        def start(self, x, keys):
            return {**super().start(x, keys), "seen": ops.zeros((x.shape[0],), dtype="bool")}

    kernel = kernel_of(2)
    x, y = equidistant(kernel, "l2", 1.0)
    target = Target(linear(kernel), x)
    goal = Goal((1 - y).astype("int32"))  # labels that make every clean image look fooled
    attack = Moody("l2", 0.5, steps=3, random_start=False, bounds=None)
    task = Task(target, goal, x, [], target.outputs(x), np.arange(len(x)), 64, True, None)
    (search,) = attack.searches()
    images = search(task).images
    assert np.all(length(images - x, "l2") > 0)


# Precision and kinds of outputs


def test_outputs_in_half_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = functional(lambda z, x: keras.layers.Softmax()(z))
    finally:
        keras.config.set_dtype_policy("float32")
    x = vectors()
    target = Target(model, x)
    assert target.probabilities, "three digits, whose sum is not 1"
    y = target.predict(x)
    outputs = target.outputs(x)
    assert outputs.dtype == "float32" and np.isfinite(outputs).all()
    assert PGD("linf", 0.5, steps=5)(target, x, y).success.any()


def test_float64(float64):
    """Images of float32 are widened; ball and distances are then exact to float64."""
    model = linear(kernel_of(2))
    x, y = equidistant(kernel_of(2), "l2", 1.0)
    found = PGD("l2", 1.001, bounds=None, random_start=False)(model, x, y)
    assert found.success.all() and found.adversarial.dtype == "float64"
    assert length(found.adversarial - x, "l2").max() <= 1.001 + 1e-12
    found = MinimalDistance("linf", tolerance=0.0, bounds=None)(model, x, y)
    expected = boundary(model.get_weights()[0].astype("float64"), "linf", x, y)
    np.testing.assert_allclose(found.distance, expected, rtol=2e-6)


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_probabilities_are_attacked_through_their_logits(head):
    plain = functional(lambda z, x: z)
    squashed = keras.Sequential([plain, layers.Activation(head)])
    x = vectors()
    y = classes(plain, x)
    target = Target(squashed, x)
    assert (target.probabilities, Target(plain, x).probabilities) == (head, None)
    if head == "sigmoid":
        np.testing.assert_allclose(target.outputs(x), Target(plain, x).outputs(x), atol=1e-4)
    attack = PGD("l2", 0.4, steps=10, random_start=False)
    a, b = attack(plain, x, y), attack(target, x, y)
    np.testing.assert_array_equal(a.status, b.status)
    np.testing.assert_allclose(a.adversarial, b.adversarial, atol=1e-3)


def test_outputs_that_only_seem_probabilities_keep_their_order():
    """Logits in [0, 1] at all images that a target looks at, and beyond at the others."""
    x = np.linspace(0.1, 0.9, 9, dtype="float32")[:, None]
    told = linear(np.array([[1.0, 3.0]], "float32"))
    assert Target(told, x[:2]).probabilities is None  # by its last layer

    class Subclassed(keras.Model):
        def call(self, x):
            return told(x)

    target = Target(Subclassed(), x[:2])
    assert target.probabilities is None  # by what it gives far from the images
    np.testing.assert_array_equal(target.predict(x), np.ones(9))
    assert np.all(np.diff(target.outputs(x), axis=0) > 0)
