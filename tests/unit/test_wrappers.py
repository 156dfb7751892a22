"""Optimizers around others: SAM, ASAM, Lookahead, stochastic weight averaging."""

import keras
import numpy as np
import pytest
from keras import ops
from optimizer_cases import STARTS, minimise, parabola, variables

from keras_pde import optimizers
from keras_pde.training import supported

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:.*ends within a cycle"),
]


def arrays(values):
    return [np.array(ops.convert_to_numpy(v)) for v in values]


def starts():
    return variables(*STARTS[parabola], dtype="float64")


def assert_close(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_descends_with_the_gradient_of_the_top(adaptive):
    """Four batches: two steps of momentum SGD with gradients at x + rho T^2 g / |T g|."""
    sgd = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer = optimizers.ASAM(sgd, 0.3, eta=0.1) if adaptive else optimizers.SAM(sgd, 0.3)
    weights = starts()
    minimise(optimizer, parabola, weights, 4)

    x, velocity = arrays(starts()), [0.0, 0.0]
    for _ in range(2):
        scale = [abs(w) + 0.1 if adaptive else 1.0 for w in x]
        gradients = parabola(*x)[1]
        norm = np.sqrt(sum(np.sum((T * g) ** 2) for T, g in zip(scale, gradients, strict=True)))
        triples = zip(x, scale, gradients, strict=True)
        top = [w + 0.3 * T**2 * g / norm for w, T, g in triples]
        slopes = parabola(*top)[1]
        velocity = [0.9 * v - 0.1 * g for v, g in zip(velocity, slopes, strict=True)]
        x = [w + v for w, v in zip(x, velocity, strict=True)]
    assert_close(arrays(weights), x)
    assert int(sgd.iterations) == 2


def test_sam_ends_at_the_bottom():
    optimizer = optimizers.SAM(keras.optimizers.SGD(0.1), 0.3)
    weights = starts()
    minimise(optimizer, parabola, weights, 2)
    bottom = arrays(weights)
    minimise(optimizer, parabola, weights, 1)
    assert abs(arrays(weights)[0] - bottom[0]).max() > 0.01
    optimizer.finalize_variable_values(weights)
    assert_close(arrays(weights), bottom)


def test_lookahead_with_adam():
    optimizer = optimizers.Lookahead(keras.optimizers.Adam(0.1), 3, 0.4)
    weights = starts()
    minimise(optimizer, parabola, weights, 6)

    adam, fast = keras.optimizers.Adam(0.1), starts()
    slow = arrays(fast)
    for _ in range(2):
        minimise(adam, parabola, fast, 3)
        slow = [x + 0.4 * (y - x) for x, y in zip(slow, arrays(fast), strict=True)]
        for variable, value in zip(fast, slow, strict=True):
            variable.assign(value)
    assert_close(arrays(weights), slow)


def test_weights_are_averaged_from_the_start_on_every_period():
    optimizer = optimizers.StochasticWeightAveraging(keras.optimizers.SGD(0.1), start=2, period=3)
    weights, plain, passed = starts(), starts(), []
    sgd = keras.optimizers.SGD(0.1)
    for _ in range(10):
        minimise(optimizer, parabola, weights, 1)
        minimise(sgd, parabola, plain, 1)
        passed.append(arrays(plain))
        assert_close(arrays(weights), passed[-1])  # the training itself is not changed
    optimizer.finalize_variable_values(weights)
    counted = [passed[4], passed[7]]  # after steps 5 and 8
    assert_close(arrays(weights), [np.mean(w, axis=0) for w in zip(*counted, strict=True)])


def test_averaging_that_has_not_begun_leaves_the_weights():
    optimizer = optimizers.StochasticWeightAveraging(keras.optimizers.SGD(0.1), start=100)
    weights = starts()
    minimise(optimizer, parabola, weights, 3)
    before = arrays(weights)
    optimizer.finalize_variable_values(weights)
    assert_close(arrays(weights), before)


def test_the_learning_rate_is_that_of_the_inner_optimizer():
    inner = keras.optimizers.SGD(0.5)
    optimizer = optimizers.Lookahead(inner)
    optimizer.learning_rate = 0.25
    assert float(inner.learning_rate) == 0.25 == float(optimizer.learning_rate)


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()), "LossScaleOptimizer"),
        (optimizers.Lookahead(), "Lookahead"),
        (optimizers.EntropySGD(), "works in cycles"),
        (keras.optimizers.SGD(gradient_accumulation_steps=2), "gradient_accumulation_steps"),
        (None, "expected an optimizer"),
        ({"name": "sgd"}, "its config"),
        ("sgdd", "Keras' name of one"),
    ],
    ids=["loss scale", "wrapper", "cycles", "accumulation", "none", "table", "misspelt"],
)
def test_inner_optimizers_that_cannot_be_wrapped(inner, message):
    with pytest.raises(ValueError, match=message):
        optimizers.SAM(inner)


@pytest.mark.parametrize("around", [optimizers.SAM, optimizers.Lookahead])
def test_moving_averages_of_the_inner_optimizer(around):
    x = np.ones((12, 1), "float32")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    inner = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
    model.compile(around(inner), "mse")
    options = {"batch_size": 2, "verbose": 0}
    model.set_weights([np.array([[5.0]])])
    model.fit(x, 0 * x, epochs=0, **options)
    assert model.get_weights()[0] == 5.0
    for _ in range(2):  # which Keras' own optimizers refuse on JAX
        model.fit(x, 0 * x, **options)
        assert model.get_weights()[0] == np.array(ops.convert_to_numpy(inner.variables[2]))


def test_weights_are_not_averaged_twice():
    with pytest.raises(ValueError, match="SALR with use_ema=True, so two averages"):
        optimizers.StochasticWeightAveraging(optimizers.SALR())


def test_they_work_within_loss_scaling():
    x = np.random.default_rng(0).normal(size=(24, 4)).astype("float32")
    for optimizer in (optimizers.SAM("adam"), optimizers.EntropySGD(inner_steps=3)):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.LossScaleOptimizer(optimizer), "mse")
        before = model.evaluate(x, x.sum(1), verbose=0)
        model.fit(x, x.sum(1), batch_size=4, epochs=4, verbose=0)
        assert model.evaluate(x, x.sum(1), verbose=0) < before


def test_what_replicas_cannot_do_is_found_within():
    clipped = optimizers.Lookahead(keras.optimizers.SGD(clipnorm=1.0))
    with pytest.raises(ValueError, match=r"clipnorm=1\.0"):
        supported.check_optimizer(clipped)


@pytest.mark.parametrize(
    "make",
    [optimizers.SAM, optimizers.ASAM, optimizers.Lookahead, optimizers.StochasticWeightAveraging],
)
def test_variables_of_another_model_are_refused_as_keras_does(make):
    optimizer, others = make(keras.optimizers.SGD(0.1)), starts()
    optimizer.build(starts())
    with pytest.raises(ValueError, match="Unknown variable"):
        optimizer.apply([ops.ones(v.shape, "float64") for v in others], others)
