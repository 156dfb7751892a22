"""The engine that runs attacks: what it corrects, precision, kinds of outputs."""

import keras
import numpy as np
import pytest
from attack_cases import (
    NORMS,
    boundary,
    classes,
    equidistant,
    functional,
    kernel_of,
    length,
    linear,
    vectors,
)
from keras import layers, ops

from keras_pde.attacks import PGD, IteratedAttack, MinimalDistance, Target
from keras_pde.attacks.attack import Goal, Task

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
