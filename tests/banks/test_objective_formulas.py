"""Closed forms of single terms: a linear model with softmax cross-entropy, one with squares.

Everything here runs in float64, so that the tolerances of 1e-5 say something.
"""

import keras
import numpy as np
import pytest
from keras import ops
from objective_cases import CLASSES, COUNT, SHAPE, arrays, batch, fill, train_with

from keras_pde import geometry, noise
from keras_pde.objectives import (
    Adversarial,
    GradientPenalty,
    MaxGradientPenalty,
    Plain,
    Tikhonov,
    Tulip,
)

pytestmark = pytest.mark.usefixtures("float64_module")


class Softmax:
    """l(x) = logsumexp(z) - z_y with z = x W + b; grad l = W (p - e_y)."""

    loss = None  # `cross_entropy()`
    outputs = CLASSES

    def __init__(self, model):
        self.W, self.b = arrays(model.weights)

    def labels(self, y):
        return y

    def losses(self, x, y):
        z = x @ self.W + self.b
        return np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]

    def gradients(self, x, y):
        z = np.exp(x @ self.W + self.b)
        p = z / z.sum(axis=1, keepdims=True)
        return (p - np.eye(CLASSES)[y]) @ self.W.T


class Quadratic(Softmax):
    """l(x) = (w x + b - y)^2; grad l = 2 (w x + b - y) w."""

    loss = "mean_squared_error"
    outputs = 1

    def residual(self, x, y):
        return (x @ self.W + self.b)[:, 0] - y

    def losses(self, x, y):
        return self.residual(x, y) ** 2

    def gradients(self, x, y):
        return 2 * self.residual(x, y)[:, None] * self.W[:, 0]


def linear(kind):
    layers = [keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(kind.outputs)]
    model = fill(keras.Sequential(layers))
    return model, kind(model)


def logged(kind, objective, x=None, weighted=False, seed=0):
    """What a step logs, with the closed forms and the flat data."""
    model, form = linear(kind)
    images, y, weight = batch()
    images = images if x is None else x
    robust = train_with(model, objective, keras.optimizers.SGD(0.0), kind.loss, True, seed=seed)
    weight = weight if weighted else None
    logs = robust.train_on_batch(images, y, weight, return_dict=True)
    flat = images.reshape(COUNT, -1)
    return logs, form, flat, y, np.ones(COUNT) if weight is None else weight


def norms(g, norm):
    return np.linalg.norm(g, {"l1": 1, "l2": 2, "linf": np.inf}[norm], axis=1)


def steepest(g, norm):
    """The direction of unit length in `norm`."""
    if norm == "linf":
        return np.sign(g)
    if norm == "l2":
        return g / norms(g, "l2")[:, None]
    largest = np.abs(g).argmax(axis=1)
    return np.sign(g) * np.eye(g.shape[1])[largest]


DUAL = {"l1": "linf", "l2": "l2", "linf": "l1"}
KINDS = pytest.mark.parametrize("kind", [Softmax, Quadratic])
NORMS = pytest.mark.parametrize("norm", ["l1", "l2", "linf"])


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@KINDS
@pytest.mark.parametrize("weighted", [False, True])
def test_plain(kind, weighted):
    logs, form, x, y, w = logged(kind, Plain(), weighted=weighted)
    close(logs["plain"], np.mean(w * form.losses(x, y)))
    close(logs["loss"], logs["plain"])


@KINDS
@NORMS
def test_adversarial(kind, norm):
    """J1 for linf, J2 for l2, one pixel for l1."""
    logs, form, x, y, w = logged(kind, Adversarial(norm, 0.1), weighted=norm == "l2")
    moved = x + 0.1 * steepest(form.gradients(x, y), norm)
    close(logs["adversarial"], np.mean(w * form.losses(moved, y)))
    close(logs["loss"], logs["adversarial"])


def test_adversarial_is_the_gradient_norm_to_first_order():
    logs, form, x, y, _ = logged(Softmax, Adversarial("linf", 1e-7))
    slope = (logs["adversarial"] - form.losses(x, y).mean()) / 1e-7
    np.testing.assert_allclose(slope, norms(form.gradients(x, y), "l1").mean(), rtol=1e-4)


@NORMS
def test_adversarial_epsilon_norm(norm):
    """The 2018 recipe: the direction scaled to Euclidean length, no clipping."""
    objective = Adversarial(norm, 2.0, epsilon_norm="l2", bounds=None)
    logs, form, x, y, _ = logged(Softmax, objective)
    d = steepest(form.gradients(x, y), norm)
    close(logs["adversarial"], form.losses(x + 2.0 * steepest(d, "l2"), y).mean())


@NORMS
@pytest.mark.parametrize("epsilon_norm", [None, "l2"])
def test_adversarial_bounds(norm, epsilon_norm):
    """Saturated pixels do not take part in the direction, and the result is clipped."""
    images = batch()[0]
    images[:, 0, :2] = [[0.0], [1.0]]
    objective = Adversarial(norm, 0.6, epsilon_norm=epsilon_norm)
    logs, form, x, y, _ = logged(Softmax, objective, images)
    g = form.gradients(x, y)
    g[(x <= 0) & (g < 0) | (x >= 1) & (g > 0)] = 0
    d = steepest(g, norm)
    if epsilon_norm:
        d = steepest(d, epsilon_norm)
    close(logs["adversarial"], form.losses(np.clip(x + 0.6 * d, 0, 1), y).mean())


@pytest.mark.parametrize(("norm", "step_size"), [("linf", None), ("l2", 0.07)])
def test_adversarial_steps(norm, step_size):
    objective = Adversarial(norm, 0.1, steps=3, step_size=step_size)
    logs, form, x, y, _ = logged(Softmax, objective)
    step_size = step_size or 2.5 * 0.1 / 3
    moved = x
    for _ in range(3):
        d = moved + step_size * steepest(form.gradients(moved, y), norm) - x
        if norm == "linf":
            d = np.clip(d, -0.1, 0.1)
        else:
            d = d * np.minimum(1, 0.1 / norms(d, "l2"))[:, None]
        moved = x + d
    close(logs["adversarial"], form.losses(moved, y).mean())


def test_adversarial_random_start():
    def value(seed):
        objective = Adversarial("linf", 0.2, step_size=1e-12, random_start=True)
        return logged(Softmax, objective, seed=seed)[0]["adversarial"]

    _, form, x, y, _ = logged(Softmax, Plain())
    keys = noise.keys(4, 0, np.arange(COUNT, dtype="int32"))  # stream 0: step 0, first purpose
    start = ops.convert_to_numpy(geometry.get("linf").random(keys, SHAPE, 0.2))
    close(value(4), form.losses(x + start.reshape(x.shape), y).mean())
    assert abs(value(5) - value(4)) > 1e-4


def penalty_value(form, x, y, norm, power, method, h=0.01):
    g = form.gradients(x, y)
    if method == "finite_difference":
        v = steepest(g, DUAL[norm])
        slopes = (form.losses(x + h * v, y) - form.losses(x, y)) / h
    else:
        slopes = norms(g, norm)
    return slopes if power == 1 else slopes**2 / 2


@KINDS
@NORMS
@pytest.mark.parametrize("method", ["double_backprop", "finite_difference"])
def test_gradient_penalty(kind, norm, method):
    """Both powers in one step, with sample weights."""
    objective = GradientPenalty(norm, 0.3, 1, method) + GradientPenalty(norm, 0.7, 2, method)
    logs, form, x, y, w = logged(kind, objective, weighted=True)
    values = [penalty_value(form, x, y, norm, power, method) for power in (1, 2)]
    close(logs["gradient_penalty"], 0.3 * np.mean(w * values[0]))
    close(logs["gradient_penalty_2"], 0.7 * np.mean(w * values[1]))
    close(logs["loss"], sum(logs[k] for k in ("plain", "gradient_penalty", "gradient_penalty_2")))


def test_gradient_penalty_step():
    objective = GradientPenalty("l2", 1.0, method="finite_difference", step_size=0.5)
    logs, form, x, y, _ = logged(Softmax, objective)
    close(
        logs["gradient_penalty"],
        penalty_value(form, x, y, "l2", 1, "finite_difference", 0.5).mean(),
    )


@pytest.mark.parametrize("method", ["double_backprop", "finite_difference"])
@pytest.mark.parametrize(("fraction", "count"), [(0.5, 3), (0.34, 3), (1e-6, 1), (0.99, 6)])
def test_gradient_penalty_fraction(method, fraction, count):
    objective = GradientPenalty("l2", 1.0, method=method, fraction=fraction)
    logs, form, x, y, w = logged(Softmax, objective, weighted=True, seed=9)
    keys = noise.keys(9, 1, np.arange(COUNT, dtype="int32"))  # stream 1: step 0, second purpose
    chosen = np.argsort(ops.convert_to_numpy(noise.uniform(keys, (1,)))[:, 0])[:count]
    values = w * penalty_value(form, x, y, "l2", 1, method)
    close(logs["gradient_penalty"], values[chosen].mean())


@pytest.mark.parametrize("method", ["double_backprop", "finite_difference"])
@pytest.mark.parametrize("at", ["clean", "perturbed"])
def test_gradient_penalty_beside_an_adversarial_term(method, at):
    objective = Adversarial("linf", 0.1) + GradientPenalty("l1", 1.0, method=method, at=at)
    logs, form, x, y, _ = logged(Softmax, objective)
    moved = x + 0.1 * np.sign(form.gradients(x, y))
    where = moved if at == "perturbed" else x
    close(logs["gradient_penalty"], penalty_value(form, where, y, "l1", 1, method).mean())


@KINDS
@NORMS
@pytest.mark.parametrize("weighted", [False, True])
def test_max_gradient_penalty(kind, norm, weighted):
    objective = MaxGradientPenalty(norm, 0.3, floor=0.1)
    logs, form, x, y, w = logged(kind, objective, weighted=weighted)
    largest = np.max(w * norms(form.gradients(x, y), norm))
    assert largest > 0.1
    close(logs["max_gradient_penalty"], 0.3 * (largest - 0.1))


@pytest.mark.parametrize("statistics", ["inference", "batch"])
@pytest.mark.parametrize("top_k", [1, 2, None])
@pytest.mark.parametrize("scale", ["per_example", "batch_mean"])
def test_max_gradient_penalty_options(statistics, top_k, scale):
    objective = MaxGradientPenalty("l2", 0.3, 0.01, top_k, scale, "clean", statistics)
    logs, form, x, y, _ = logged(Softmax, objective)
    largest = norms(form.gradients(x, y), "l2").max()
    largest = largest / COUNT if scale == "batch_mean" else largest
    close(logs["max_gradient_penalty"], 0.3 * (largest - 0.01))


def test_max_gradient_penalty_below_its_floor_costs_nothing():
    logs, *_ = logged(Softmax, MaxGradientPenalty("l2", 0.3, floor=100.0))
    assert logs["max_gradient_penalty"] == 0
    close(logs["loss"], logs["plain"])


@KINDS
@pytest.mark.parametrize("objective", [Tulip(0.1, 0.3, floor=0.05), Tulip.paper2018()])
def test_tulip(kind, objective):
    logs, form, x, y, _ = logged(kind, objective)
    moved = x + objective.epsilon * steepest(form.gradients(x, y), "l2")
    largest = norms(form.gradients(moved, y), "l2").max()
    largest = largest / COUNT if objective.scale == "batch_mean" else largest
    close(logs["adversarial"], form.losses(moved, y).mean())
    close(logs["max_gradient_penalty"], objective.weight * (largest - objective.floor))
    close(logs["loss"], logs["adversarial"] + logs["max_gradient_penalty"])


@KINDS
@pytest.mark.parametrize("objective", [Tikhonov("l1", 0.3), Tikhonov.paper2019("l2", 0.3)])
def test_tikhonov(kind, objective):
    logs, form, x, y, _ = logged(kind, objective)
    values = penalty_value(form, x, y, objective.norm, 2, objective.method)
    close(logs["gradient_penalty"], 0.3 * values.mean())
    close(logs["loss"], form.losses(x, y).mean() + logs["gradient_penalty"])


def test_tulip_paper_2018_says_what_its_docstring_says():
    tulip = Tulip.paper2018()
    assert tulip.data == Adversarial("l2", 0.01, bounds=None, statistics="inference")
    settings = {"scale": "batch_mean", "at": "perturbed", "bounds": None}
    expected = MaxGradientPenalty("l2", 0.1, top_k=None, **settings)
    assert tulip.penalties == (expected,)


def test_a_zero_gradient_moves_nothing_and_penalises_nothing():
    """A constant model: directions of zero gradients stay zero, lengths have slope 0."""
    model = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.set_weights([np.zeros((6, 3)), np.zeros(3)])
    objective = Adversarial("l2", 0.1) + GradientPenalty("l2", 1.0) + MaxGradientPenalty("l2", 1.0)
    robust = train_with(model, objective, "sgd", eager=True)
    logs = robust.train_on_batch(*batch()[:2], return_dict=True)
    close(logs["loss"], np.log(3))
    assert all(np.isfinite(w).all() for w in arrays(model.weights))
