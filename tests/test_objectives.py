"""The bank that every registered objective passes, then the closed forms of single terms.

Everything here runs in float64: signs and finite differences amplify rounding, and tolerances of
1e-5 would otherwise say little. `python -m tests.test_objectives` rewrites the golden numbers.
"""

import contextlib
import inspect
import json
import pathlib

import keras
import numpy as np
import pytest
from keras import ops

import keras_pde as kp
from keras_pde import geometry, noise, registry
from keras_pde.training.objectives import (
    Adversarial,
    GradientPenalty,
    MaxGradientPenalty,
    Objective,
    Plain,
    Tikhonov,
    Tulip,
)

BACKEND = keras.backend.backend()
GOLDEN = pathlib.Path(__file__).with_name("golden_objectives.json")
OBJECTIVES = [pytest.param(entry, id=entry.name) for entry in registry.entries("objective")]
pytestmark = pytest.mark.usefixtures("float64_module")

SHAPE, CLASSES, COUNT = (2, 3, 1), 3, 6


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def batch(seed=0):
    """Images well inside [0, 1], labels, sample weights."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.3, 0.7, size=(COUNT, *SHAPE))
    return x, np.arange(COUNT) % CLASSES, rng.uniform(0.5, 2.0, size=COUNT)


def fill(model, seed=1):
    """Weights from numpy, the same on every backend; variances stay positive."""
    rng = np.random.default_rng(seed)
    model.set_weights(
        [
            rng.uniform(0.5, 1.5, v.shape) if "variance" in v.path else rng.normal(size=v.shape)
            for v in model.weights
        ]
    )
    return model


def smooth_network(batch_norm=kp.layers.batch_norm):
    """tanh, batch normalization with arbitrary moving statistics, an L2 regulariser."""
    inputs = keras.Input(SHAPE)
    z = keras.layers.Dense(4, "tanh")(keras.layers.Flatten()(inputs))
    z = batch_norm()(z)
    z = keras.layers.Dense(4, "tanh", kernel_regularizer=keras.regularizers.L2(0.01))(z)
    return fill(keras.Model(inputs, keras.layers.Dense(CLASSES)(z)))


def train_with(model, objective, optimizer, loss=None, eager=False, **options):
    robust = kp.RobustModel(model, objective, **options)
    # One eager step on TensorFlow is faster than a trace; on JAX it is the other way round.
    robust.compile(
        optimizer, loss or cross_entropy(), run_eagerly=eager and BACKEND == "tensorflow"
    )
    return robust


def arrays(variables):
    return [ops.convert_to_numpy(v) for v in variables]


# The bank

ALTERNATIVES = {
    "norm": "l1",
    "epsilon_norm": "l2",
    "step_size": 0.03,
    "bounds": (-1.0, 2.0),
    "method": "finite_difference",
    "scale": "batch_mean",
    "at": "perturbed",
    "power": 2,
    "top_k": None,
    "fraction": 0.5,
    "selection": "batch",
}


def alternative(entry, name, default):
    """A value for an argument that differs from its default and from the registered example."""
    if name in ALTERNATIVES:
        value = ALTERNATIVES[name]
    elif name == "statistics":
        value = "batch" if default == "inference" else "inference"
    elif isinstance(default, bool):
        value = not default
    else:
        base = entry.example.get(name, default)
        assert isinstance(base, int | float), f"add a value for {name!r} to ALTERNATIVES"
        value = base + 2
    assert value not in (default, entry.example.get(name, default)), name
    return value


@pytest.mark.parametrize("entry", OBJECTIVES)
class TestBank:
    def test_config_is_complete(self, entry):
        for name, parameter in inspect.signature(entry.component).parameters.items():
            value = alternative(entry, name, parameter.default)
            objective = entry.component(**{**entry.example, name: value})
            assert objective.get_config()[name] == value
            saved = json.loads(json.dumps(keras.saving.serialize_keras_object(objective)))
            again = keras.saving.deserialize_keras_object(saved)
            assert type(again) is entry.component
            assert again == objective and hash(again) == hash(objective)
            assert again.get_config() == objective.get_config()
            assert again != entry.component(**entry.example)

    def test_repr_can_be_read_back(self, entry):
        objective = entry.component(**entry.example)
        assert eval(repr(objective), {entry.component.__name__: entry.component}) == objective

    def test_is_documented_and_named(self, entry):
        assert entry.component.__doc__
        assert keras.saving.get_registered_name(entry.component).startswith("keras_pde>")

    def test_trains_as_on_the_other_backend(self, entry):
        """Five steps: terms logged, finite, adding up to the loss; golden numbers of TensorFlow."""
        summary = golden_run(entry)
        assert all(np.isfinite(v).all() for v in summary["history"].values())
        golden = json.loads(GOLDEN.read_text())[entry.name]
        assert summary["history"].keys() == golden["history"].keys()
        for name, values in golden["history"].items():
            np.testing.assert_allclose(summary["history"][name], values, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(summary["weights"], golden["weights"], rtol=1e-5, atol=1e-8)

    def test_gradient_equals_a_directional_difference(self, entry):
        check_gradient(entry.component(**entry.example))


def golden_run(entry):
    """History and a projection of the weights after five steps of one objective."""
    model = smooth_network()
    objective = entry.component(**entry.example)
    robust = train_with(model, objective, keras.optimizers.SGD(0.05, momentum=0.9), eager=True)
    x, y, weight = batch()
    regulariser = sum(float(loss) for loss in model.losses)
    history = robust.fit(x, y, sample_weight=weight, epochs=5, shuffle=False, verbose=0).history
    terms = robust.objective.names
    assert set(history) == {"loss", *terms}
    # In the first step the regulariser is that of the weights at the start.
    total = sum(history[name][0] for name in terms) + regulariser
    np.testing.assert_allclose(history["loss"][0], total, rtol=1e-6)
    assert min(history["loss"]) > 0
    weights = np.concatenate([w.ravel() for w in arrays(model.weights)])
    directions = np.random.default_rng(2).normal(size=(8, weights.size)) / weights.size**0.5
    return {"history": history, "weights": list(directions @ weights)}


# Gradients against differences


@contextlib.contextmanager
def frozen(values, replay):
    """What a step holds constant, recorded into `values` or replayed from them.

    That is: the images an adversarial term crafts, and the directions of finite differences.
    """
    queue = list(values)

    class State:
        crafting = False

    def images(original):
        def call(self, step):
            if replay:
                return queue.pop(0)
            State.crafting = True
            try:
                values.append(original(self, step))
            finally:
                State.crafting = False
            return values[-1]

        return call

    def steepest(original):
        def call(self, gradient):
            if State.crafting:
                return original(self, gradient)
            if not replay:
                values.append(original(self, gradient))
                return values[-1]
            return queue.pop(0)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Adversarial, "images", images(Adversarial.images))
        for norm in (geometry.L1, geometry.L2, geometry.Linf):
            patch.setattr(norm, "steepest", steepest(norm.steepest))
        yield


def totals(robust, data):
    """`record(weights) -> constants` and `total(weights, constants) -> loss` of one step."""
    state = [v.value for v in robust.non_trainable_variables]
    x, y, weight = (ops.convert_to_tensor(t) for t in data)

    def loss(weights):
        if BACKEND == "jax":
            metrics = [v.value for v in robust.metrics_variables]
            optimizer = [v.value for v in robust.optimizer.variables]
            arguments = (weights, state, metrics, x, y, weight, True, optimizer)
            return robust.compute_loss_and_updates(*arguments)[0]
        step = robust._step(weights, state, x, y, weight, robust.optimizer.iterations)
        return robust._objective_loss(x, y, weight, step)[0]

    def record(weights):
        values = []
        with frozen(values, replay=False):
            loss(weights)
        return values

    def total(weights, values):
        with frozen(values, replay=True):
            return loss(weights)

    if BACKEND == "jax":
        import jax

        return jax.jit(record), jax.jit(total)
    return record, total


def gradient_error(objective, model):
    """Relative error of the training step's gradient along a direction, against a difference."""
    data = batch()
    # Plain descent with rate 1 moves the weights by the gradient that the trainer used.
    robust = train_with(model, objective, keras.optimizers.SGD(1.0), eager=True)
    robust.optimizer.build(robust.trainable_variables)
    before = [v.copy() for v in arrays(robust.trainable_variables)]
    record, total = totals(robust, data)
    values = record([ops.convert_to_tensor(w) for w in before])
    direction = [np.random.default_rng(3).normal(size=w.shape) for w in before]
    h = 1e-5
    ahead, behind = (
        float(
            total(
                [ops.convert_to_tensor(w + s * d) for w, d in zip(before, direction, strict=True)],
                values,
            )
        )
        for s in (h, -h)
    )
    robust.train_on_batch(*data)
    after = arrays(robust.trainable_variables)
    slope = sum(np.sum((b - a) * d) for a, b, d in zip(after, before, direction, strict=True))
    return abs(slope / ((ahead - behind) / (2 * h)) - 1)


def check_gradient(objective):
    assert gradient_error(objective, smooth_network()) < 1e-5


@pytest.mark.parametrize(
    "objective",
    [
        Adversarial("linf", 0.1, steps=3, random_start=True),
        Adversarial("linf", 0.1, epsilon_norm="l2", bounds=None),
        GradientPenalty("l1", 0.5, power=2) + MaxGradientPenalty(0.5, statistics="batch"),
        GradientPenalty("linf", 0.5, statistics="inference"),
        GradientPenalty("l2", 0.5, method="finite_difference", fraction=0.5),
        GradientPenalty("l1", 0.5, fraction=0.5, power=2),
        Adversarial("l2", 0.1) + GradientPenalty("l1", 0.5, at="perturbed"),
        Adversarial("l2", 0.1) + GradientPenalty("l2", 0.5, method="finite_difference"),
        MaxGradientPenalty(0.5, top_k=3, floor=0.1, scale="batch_mean"),
        Tulip(0.1, 0.5, top_k=None, statistics="batch"),
        Tikhonov.paper2019("l1", 0.5),
    ],
    ids=repr,
)
def test_gradient_of_variants(objective):
    check_gradient(objective)


def test_double_backpropagation_through_plain_batch_normalization():
    """What the docstrings say: wrong on TensorFlow. When this fails, Keras has repaired it."""
    objective = GradientPenalty("l2", 5.0, power=2)
    error = gradient_error(objective, smooth_network(keras.layers.BatchNormalization))
    assert (error > 1e-5) == (BACKEND == "tensorflow")


# Batch statistics of a part of the batch


class FineTuned(keras.Model):
    """Calls its batch normalization with `training=False`, whatever it is told itself."""

    def __init__(self):
        super().__init__()
        self.first = keras.layers.Dense(4, "tanh")
        self.norm, self.other_norm = kp.layers.batch_norm(), kp.layers.batch_norm()
        self.head = keras.layers.Dense(CLASSES)

    def call(self, x, training=None):
        z = self.norm(self.first(ops.reshape(x, (-1, 6))), training=False)
        return self.head(self.other_norm(z, training=training))


def fine_tuned(frozen):
    """With the second batch normalization frozen, training and inference mode are the same."""
    model = FineTuned()
    model.other_norm.trainable = not frozen
    model(ops.zeros((1, *SHAPE)))
    return fill(model)


@pytest.mark.parametrize(
    "penalty",
    [
        GradientPenalty("l2", 1.0, fraction=0.5),
        GradientPenalty("l2", 1.0, fraction=0.5, method="finite_difference"),
        MaxGradientPenalty(1.0, statistics="batch"),
    ],
    ids=repr,
)
def test_batch_statistics_of_a_frozen_batch_normalization(penalty):
    """A layer that is called with `training=False` (fine-tuning) has no batch statistics."""
    x, y, _ = batch()
    logs = {}
    for statistics in ("batch", "inference"):
        term = type(penalty)(**{**penalty.get_config(), "statistics": statistics})
        robust = train_with(fine_tuned(frozen=True), term, "sgd", eager=True)
        logs[statistics] = robust.train_on_batch(x, y, return_dict=True)
    for name, value in logs["inference"].items():
        np.testing.assert_allclose(logs["batch"][name], value, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("network", [smooth_network, lambda: fine_tuned(frozen=False)])
def test_moving_statistics_are_updated_as_in_a_plain_step(network):
    """Also where a penalty makes the step compute the batch statistics apart."""
    x, y, _ = batch()
    plain = network()
    plain(ops.convert_to_tensor(x), training=True)
    robust = train_with(network(), GradientPenalty("l2", 1.0, fraction=0.5), "sgd", eager=True)
    robust.train_on_batch(x, y)
    for a, b in zip(
        robust.model.non_trainable_variables, plain.non_trainable_variables, strict=True
    ):
        np.testing.assert_allclose(*arrays([a, b]), rtol=1e-12)


# Closed forms: a linear model with softmax cross-entropy, and one with squares


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
    objective = GradientPenalty("l2", 1.0, method="finite_difference", step=0.5)
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
    objective = MaxGradientPenalty(0.3, floor=0.1, norm=norm)
    logs, form, x, y, w = logged(kind, objective, weighted=weighted)
    largest = np.max(w * norms(form.gradients(x, y), norm))
    assert largest > 0.1
    close(logs["max_gradient_penalty"], 0.3 * (largest - 0.1))


@pytest.mark.parametrize("statistics", ["inference", "batch"])
@pytest.mark.parametrize("top_k", [1, 2, None])
@pytest.mark.parametrize("scale", ["per_example", "batch_mean"])
def test_max_gradient_penalty_options(statistics, top_k, scale):
    objective = MaxGradientPenalty(0.3, 0.01, top_k, scale, "clean", statistics)
    logs, form, x, y, _ = logged(Softmax, objective)
    largest = norms(form.gradients(x, y), "l2").max()
    largest = largest / COUNT if scale == "batch_mean" else largest
    close(logs["max_gradient_penalty"], 0.3 * (largest - 0.01))


def test_max_gradient_penalty_below_its_floor_costs_nothing():
    logs, *_ = logged(Softmax, MaxGradientPenalty(0.3, floor=100.0))
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
@pytest.mark.parametrize("objective", [Tikhonov(0.3, "l1"), Tikhonov.paper2019("l2", 0.3)])
def test_tikhonov(kind, objective):
    logs, form, x, y, _ = logged(kind, objective)
    values = penalty_value(form, x, y, objective.norm, 2, objective.method)
    close(logs["gradient_penalty"], 0.3 * values.mean())
    close(logs["loss"], form.losses(x, y).mean() + logs["gradient_penalty"])


def test_tulip_paper_2018_says_what_its_docstring_says():
    tulip = Tulip.paper2018()
    assert tulip.data == Adversarial("l2", 0.01, bounds=None)
    expected = MaxGradientPenalty(0.1, 0.0, None, "batch_mean", "perturbed", "batch")
    assert tulip.penalties == (expected,)


def test_a_zero_gradient_moves_nothing_and_penalises_nothing():
    """A constant model: directions of zero gradients stay zero, lengths have slope 0."""
    model = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.set_weights([np.zeros((6, 3)), np.zeros(3)])
    objective = Adversarial("l2", 0.1) + GradientPenalty("l2", 1.0) + MaxGradientPenalty(1.0)
    robust = train_with(model, objective, "sgd", eager=True)
    logs = robust.train_on_batch(*batch()[:2], return_dict=True)
    close(logs["loss"], np.log(3))
    assert all(np.isfinite(w).all() for w in arrays(model.weights))


# Composition


class TestComposition:
    adversarial, penalty, largest = (
        Adversarial("l2", 0.1),
        GradientPenalty("l2", 0.1),
        MaxGradientPenalty(0.2),
    )

    def test_sum_in_any_order_and_grouping(self):
        a, p, m = self.adversarial, self.penalty, self.largest
        expected = Objective(a, [p, m])
        assert a + p + m == expected
        assert a + (p + m) == expected
        assert p + a + m == expected
        assert (p + m) + a == expected
        assert expected.names == ["adversarial", "gradient_penalty", "max_gradient_penalty"]

    def test_a_penalty_alone_means_plain(self):
        objective = self.penalty + self.largest
        assert objective.data == Plain()
        assert objective == Objective(None, [self.penalty, self.largest])
        assert repr(objective) == f"Plain() + {self.penalty} + {self.largest}"

    def test_presets_compose(self):
        assert (Tikhonov(0.1) + self.adversarial).data == self.adversarial
        objective = Tulip(0.1, 0.2) + self.penalty
        assert objective.data == Adversarial("l2", 0.1)
        assert len(objective.penalties) == 2

    def test_terms_of_one_kind_get_numbers(self):
        objective = self.penalty + GradientPenalty("l1", 1.0) + self.largest + self.penalty
        names = ["plain", "gradient_penalty", "gradient_penalty_2", "max_gradient_penalty"]
        assert objective.names == [*names, "gradient_penalty_3"]

    @pytest.mark.parametrize(
        "make",
        [
            lambda a, p: a + a,
            lambda a, p: a + Plain(),
            lambda a, p: (a + p) + a,
            lambda a, p: Plain() + p + a,
            lambda a, p: Tulip(0.1, 0.1) + a,
        ],
    )
    def test_two_data_terms_are_refused(self, make):
        with pytest.raises(ValueError, match="one data term plus penalties"):
            make(self.adversarial, self.penalty)

    def test_what_is_no_term_is_refused(self):
        for make in (
            lambda: self.adversarial + 1,
            lambda: self.adversarial + "tulip",
            lambda: Objective(self.adversarial, [self.adversarial]),
            lambda: Objective(self.penalty),
        ):
            with pytest.raises(ValueError, match="Received"):
                make()

    def test_a_sum_is_saved(self):
        for objective in (self.adversarial + self.penalty, self.penalty + self.largest):
            saved = json.loads(json.dumps(keras.saving.serialize_keras_object(objective)))
            again = keras.saving.deserialize_keras_object(saved)
            assert again == objective
            assert again.explicit == objective.explicit


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adversarial("l3", 0.1), "unknown norm"),
        (lambda: Adversarial("l2", -0.1), "at least 0"),
        (lambda: Adversarial("l2", 0.1, steps=0), "steps=0"),
        (lambda: Adversarial("l2", 0.1, steps=1.5), "integer"),
        (lambda: Adversarial("l2", 0.1, step_size=0), "positive"),
        (lambda: Adversarial("l2", 0.1, epsilon_norm="lf"), "Did you mean"),
        (lambda: Adversarial("l2", 0.1, steps=2, epsilon_norm="l2"), "single step"),
        (lambda: Adversarial("l2", 0.1, random_start=True, epsilon_norm="l2"), "single step"),
        (lambda: Adversarial("l2", 0.1, bounds=(1, 0)), "low, high"),
        (lambda: GradientPenalty("l3", 0.1), "unknown norm"),
        (lambda: GradientPenalty("l2", -0.1), "at least 0"),
        (lambda: GradientPenalty("l2", 0.1, power=3), "power=3"),
        (lambda: GradientPenalty("l2", 0.1, method="double_backpro"), "Did you mean"),
        (lambda: GradientPenalty("l2", 0.1, step=0), "positive"),
        (lambda: GradientPenalty("l2", 0.1, fraction=0), "fraction"),
        (lambda: GradientPenalty("l2", 0.1, fraction=1.1), "fraction"),
        (lambda: GradientPenalty("l2", 0.1, at="here"), "unknown `at`"),
        (lambda: GradientPenalty("l2", 0.1, statistics="moving"), "unknown statistics"),
        (lambda: MaxGradientPenalty(-1), "at least 0"),
        (lambda: MaxGradientPenalty(1, floor=-1), "at least 0"),
        (lambda: MaxGradientPenalty(1, top_k=0), "top_k=0"),
        (lambda: MaxGradientPenalty(1, scale="batch"), "Did you mean 'batch_mean'"),
        (lambda: MaxGradientPenalty(1, norm="l3"), "unknown norm"),
        (lambda: Tulip(-1, 0.1), "at least 0"),
        (lambda: Tikhonov(0.1, norm="l3"), "unknown norm"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


if __name__ == "__main__":
    from tests.conftest import double_precision

    with double_precision():
        runs = {entry.name: golden_run(entry) for entry in registry.entries("objective")}
    GOLDEN.write_text(json.dumps(runs, indent=1) + "\n")
