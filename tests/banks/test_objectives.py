"""The bank that every registered objective passes, and gradients against differences.

Everything here runs in float64: signs and finite differences amplify rounding, and tolerances of
1e-5 would otherwise say little. `python tests/cases/objective_cases.py` rewrites the golden
numbers.
"""

import contextlib
import inspect
import json

import keras
import numpy as np
import pytest
from keras import ops
from objective_cases import (
    BACKEND,
    CLASSES,
    GOLDEN,
    SHAPE,
    arrays,
    batch,
    fill,
    golden_run,
    smooth_network,
    train_with,
)

import keras_pde as kp
from keras_pde import geometry, registry
from keras_pde.objectives import (
    Adversarial,
    GradientPenalty,
    MaxGradientPenalty,
    Tikhonov,
    Tulip,
)

OBJECTIVES = [pytest.param(entry, id=entry.name) for entry in registry.entries("objective")]
pytestmark = pytest.mark.usefixtures("float64_module")


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
    elif name.endswith("statistics"):
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
        step = robust.objective_loss.step(weights, state, x, y, weight, robust.optimizer.iterations)
        return robust.objective_loss(robust, step, x, y, weight, lambda outside, images: images)[0]

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


def gradient_error(objective, model, **options):
    """Relative error of the training step's gradient along a direction, against a difference."""
    data = batch()
    # Plain descent with rate 1 moves the weights by the gradient that the trainer used.
    robust = train_with(model, objective, keras.optimizers.SGD(1.0), eager=True, **options)
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
        GradientPenalty("l1", 0.5, power=2) + MaxGradientPenalty("l2", 0.5, statistics="batch"),
        GradientPenalty("linf", 0.5, statistics="inference"),
        GradientPenalty("l2", 0.5, method="finite_difference", fraction=0.5),
        GradientPenalty("l1", 0.5, fraction=0.5, power=2),
        Adversarial("l2", 0.1) + GradientPenalty("l1", 0.5, at="perturbed"),
        Adversarial("l2", 0.1) + GradientPenalty("l2", 0.5, method="finite_difference"),
        MaxGradientPenalty("l2", 0.5, top_k=3, floor=0.1, scale="batch_mean"),
        Tulip(0.1, 0.5, top_k=None, statistics="batch"),
        Tikhonov.paper2019("l1", 0.5),
    ],
    ids=repr,
)
def test_gradient_of_variants(objective):
    check_gradient(objective)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.BatchNormalization,
        keras.layers.LayerNormalization,
        lambda: keras.layers.GroupNormalization(2),
        lambda: keras.layers.Activation("softsign"),
    ],
    ids=["batch", "layer", "group", "softsign"],
)
def test_double_backpropagation_where_tensorflow_alone_gets_it_wrong(layer):
    assert gradient_error(GradientPenalty("l2", 5.0, power=2), smooth_network(layer)) < 1e-5


@pytest.mark.parametrize(
    "objective",
    [
        GradientPenalty("l2", 5.0, power=2, bounds=None),
        GradientPenalty("l1", 5.0, fraction=0.5, bounds=None),
        MaxGradientPenalty("l2", 5.0, bounds=None),
        GradientPenalty("l2", 5.0, method="finite_difference", bounds=None),
    ],
    ids=repr,
)
def test_gradient_of_penalties_at_a_layer_reaches_what_comes_before(objective):
    model = smooth_network()
    first = model.layers[2].name
    assert gradient_error(objective, model, at=first) < 1e-5


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
        MaxGradientPenalty("l2", 1.0, statistics="batch"),
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
