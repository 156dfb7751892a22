"""MirroredStrategy on two logical CPUs equals one device; what cannot is refused."""

import json
import sys

import keras
import mirrored_cases
import numpy as np
import pytest
from mirrored_cases import alone, together
from selection import some

import keras_pde as kp
from keras_pde.objectives import (
    Adversarial,
    GradientPenalty,
    MaxGradientPenalty,
    Plain,
    Tulip,
)

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="about tf.distribute"
)

# name -> (objective, precision). Signs and difference quotients amplify rounding: float64 there.
CASES = {
    "tulip": (
        Tulip(0.1, 0.2, floor=0.2, top_k=None) + GradientPenalty("l2", 0.1, at="perturbed"),
        "float32",
    ),
    "candidates": (Tulip(0.1, 0.2, floor=0.2, top_k=2), "float64"),
    "maximum": (
        MaxGradientPenalty(
            "l2", 0.2, floor=0.01, top_k=None, scale="batch_mean", statistics="batch"
        )
        + MaxGradientPenalty("l2", 0.2, statistics="inference"),
        "float32",
    ),
    "signs": (
        Adversarial("linf", 0.1, steps=2)
        + GradientPenalty("l1", 0.1, method="finite_difference", at="perturbed"),
        "float64",
    ),
}

OPTIMIZERS = {
    "clipnorm": {"clipnorm": 1.0},
    "global_clipnorm": {"global_clipnorm": 1.0},
    "clipvalue": {"clipvalue": 1.0},
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 2},
    "ema_overwrite_frequency": {"use_ema": True, "ema_overwrite_frequency": 2},
}

SHAPE, CLASSES, BATCH, STEPS = (4, 4, 1), 3, 8, 5


def data():
    rng = np.random.default_rng(0)
    count = BATCH * STEPS
    x = rng.uniform(size=(count, *SHAPE))
    # Weights that differ by halves of a batch: the largest gradient is now here, now there.
    weight = rng.uniform(0.5, 1.5, size=(STEPS, 2, BATCH // 2))
    weight[::2, 0] *= 2
    weight[1::2, 1] *= 2
    return x, np.arange(count) % CLASSES, weight.reshape(-1)


def network(batch_norm=kp.layers.batch_norm):
    inputs = keras.Input(SHAPE)
    x = keras.layers.Conv2D(2, 3, activation="tanh")(inputs)
    x = keras.layers.Flatten()(batch_norm()(x))
    kernel = {"kernel_regularizer": keras.regularizers.L2(0.01)}
    model = keras.Model(inputs, keras.layers.Dense(CLASSES, **kernel)(x))
    rng = np.random.default_rng(1)
    model.set_weights(
        [
            rng.uniform(0.5, 1.5, v.shape)
            if "variance" in v.path
            else 0.5 * rng.normal(size=v.shape)
            for v in model.weights
        ]
    )
    return model


def compiled(objective, optimizer, model, **options):
    wrapper = kp.RobustModel(model, objective)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    wrapper.compile(optimizer, loss, **options)
    return wrapper


def train(objective, scope, options):
    """Logs and final weights of five steps of eight examples; logs with one example more."""
    with scope:
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        wrapper = compiled(objective, optimizer, network(), **options)
    x, y, weight = data()
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0}

    def logs(count):
        fitted = wrapper.fit(x[:count], y[:count], sample_weight=weight[:count], **options)
        return {name: float(value) for name, (value,) in fitted.history.items()}

    whole = logs(len(x))
    weights = [w.tolist() for w in wrapper.model.get_weights()]
    # In single precision Keras' own `fit` fails there, too: the collective operations of
    # synchronized batch normalization do not agree with a replica that has no examples.
    odd = logs(BATCH + 1) if keras.config.floatx() == "float64" else None
    return {"logs": whole, "weights": weights, "odd": odd}


def refusal(strategy, optimizer=None, model=network, policy="float32"):
    """The message of the error that `fit` raises."""
    keras.config.set_dtype_policy(policy)
    try:
        with strategy.scope():
            wrapper = compiled(Plain(), optimizer() if optimizer else "sgd", model())
        wrapper.fit(*data()[:2], batch_size=BATCH, verbose=0)
    except ValueError as error:
        return str(error)
    finally:
        keras.config.set_dtype_policy("float32")
    return "nothing was refused"


def main():
    strategy = mirrored_cases.strategy()
    results = {"replicas": strategy.num_replicas_in_sync, "refusals": {}}
    for name in sys.argv[1:]:
        objective, precision = CASES[name]
        keras.config.set_floatx(precision)
        keras.config.set_dtype_policy(precision)
        results[name] = [train(objective, *s) for s in (alone(), together(strategy))]
    keras.config.set_floatx("float32")
    for name, options in OPTIMIZERS.items():
        results["refusals"][name] = refusal(strategy, lambda o=options: keras.optimizers.SGD(**o))
    results["refusals"]["scaled"] = refusal(
        strategy, lambda: keras.optimizers.SGD(clipnorm=1.0), policy="mixed_float16"
    )
    results["refusals"]["batch_norm"] = refusal(
        strategy, model=lambda: network(keras.layers.BatchNormalization)
    )
    print(json.dumps(results))


@pytest.fixture(scope="module")
def results(request):
    return mirrored_cases.results(request, "case")


@pytest.mark.parametrize("case", some(CASES, fast=["candidates", "signs"]))
def test_two_replicas_equal_one_device(results, case):
    one, two = results[case]
    assert results["replicas"] == 2
    assert one["logs"].keys() == two["logs"].keys()
    for term, value in one["logs"].items():  # `loss` too: it is not doubled
        assert value > 0
        np.testing.assert_allclose(two["logs"][term], value, rtol=1e-5, err_msg=term)
    for a, b in zip(one["weights"], two["weights"], strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["candidates", "signs"])
def test_a_replica_without_examples_adds_nothing(results, case):
    for logs in (run["odd"] for run in results[case]):
        assert np.isfinite(list(logs.values())).all(), logs
    objective = CASES[case][0]
    total = sum(logs[name] for name in objective.names)
    assert 0 <= logs["loss"] - total < 0.1  # the regularizer
    for penalty, name in zip(objective.penalties, objective.names[1:], strict=True):
        if isinstance(penalty, MaxGradientPenalty):  # a maximum is logged once, of whomever it is
            one, two = (run["odd"][name] for run in results[case])
            np.testing.assert_allclose(two, one, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_a_strategy_cannot_do_is_refused(results, name):
    message = results["refusals"][name]
    assert f"optimizer with {name}=" in message and "Create the optimizer without it" in message


def test_clipping_inside_loss_scaling_is_refused(results):
    assert "optimizer with clipnorm=1.0" in results["refusals"]["scaled"]


def test_unsynchronised_batch_normalization_is_refused(results):
    assert "Build it with synchronized=True" in results["refusals"]["batch_norm"]


if __name__ == "__main__":
    main()
