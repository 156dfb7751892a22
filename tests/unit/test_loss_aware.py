"""Optimizers that see the loss: the formulas, the theorem, and what they see in `fit`."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from optimizer_cases import minimise, parabola, step, variables

from keras_pde import optimizers

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(24, 4)).astype("float32")
Y = X.sum(1)[:, None]


def network(regularizer=None):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(3, "tanh", kernel_regularizer=regularizer), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((4,)), *layers])


def salr(learning_rate, f_star=0.0, **arguments):
    return optimizers.SALR(learning_rate, f_star, **{"momentum": 0.0, **arguments})


def taken(optimizer, loss, gradient, start=1.0):
    """The step of one weight."""
    (weight,) = weights = variables([start])
    step(optimizer, weights, loss, [np.array([gradient])])
    return start - float(weight[0])


@pytest.mark.parametrize("penalty", [None, "l2"])
def test_the_loss_that_is_seen_is_that_of_the_history(penalty):
    """One batch an epoch, so the loss of the epoch is that of the batch, penalties included."""
    optimizer = optimizers.SALR(1e-3, loss_decay=0.0)
    model = network(penalty)
    model.compile(optimizer, "mse")
    for _ in range(3):
        (loss,) = model.fit(X, Y, batch_size=24, verbose=0).history["loss"]
        assert float(optimizer._scalars["loss"]) == pytest.approx(loss, rel=1e-6)


def test_rates():
    assert taken(optimizers.SPS(9.0, c=0.5, f_star=1.0), 3.0, 2.0) == pytest.approx(2.0)
    assert taken(optimizers.SPS(0.1), 3.0, 2.0) == pytest.approx(0.2)  # the cap
    assert taken(optimizers.ALIG(9.0, momentum=0.0), 3.0, 2.0) == pytest.approx(1.5, rel=1e-5)
    assert taken(salr(9.0, f_star=1.0), 3.0, 2.0) == pytest.approx(2.0)
    assert taken(salr(9.0, f_star=5.0), 3.0, 2.0) == 0  # below f*
    assert taken(salr(9.0, f_star=5.0, smallest=0.1), 3.0, 2.0) == pytest.approx(0.2)
    assert taken(salr(9.0, "running_min", margin=0.5), 3.0, 2.0) == pytest.approx(1.5)
    assert taken(salr(9.0, "running_min", margin=0.5), -3.0, 2.0) == pytest.approx(1.5)


def test_polyak_steps_solve_a_quadratic_in_one():
    """f - f* = a x^2 / 2, g = a x: the rate 2 (f - f*) / g^2 is 1 / a."""
    for a in (0.5, 7.0):
        assert taken(salr(9.0), a / 2, a) == pytest.approx(1.0)


def test_running_means_begin_without_a_bias():
    optimizer = salr(1e-9, loss_decay=0.9, square_decay=0.9)
    weights = variables([1.0])
    values = [3.0, 5.0, 4.0]
    for value in values:
        step(optimizer, weights, value, [np.array([value])])
    assert float(optimizer._scalars["loss"]) == pytest.approx(np.mean(values))
    assert float(optimizer._scalars["square"]) == pytest.approx(np.mean(np.square(values)))


def test_target_levels_rise_when_they_are_not_reached():
    optimizer = salr(1e-9, "target", loss_decay=0.0, patience=2)
    weights = variables([1.0])
    found = []
    for loss in (4.0, 3.0, 2.0, 3.0, 2.5, 2.5, 2.5):
        step(optimizer, weights, loss, [np.ones(1)])
        found.append(float(optimizer._scalars["level"]))
    # At first half of the loss, gap 2; reached at 2.0: 2 - 2; then two misses halve the gap.
    assert found == pytest.approx([2, 2, 0, 0, 1, 1, 1.5])


def test_windowed_rates_are_constant_in_between():
    optimizer = optimizers.SALR.paper_windowed(f_star=0.0, window=3)
    weights = variables([1.0])
    found = []
    for i in range(7):
        step(optimizer, weights, 1.0, [np.array([5.0 + i])])
        found.append(float(optimizer.last_rate))
    means = [np.mean(np.square([5, 6, 7])), np.mean(np.square([8, 9, 10]))]
    expected = [0.1, 0.1, 2 / means[0], 2 / means[0], 2 / means[0], 2 / means[1], 2 / means[1]]
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("spectrum", "start", "alpha"),
    [
        ((1.0,), 2.0, 2.0),
        ((1.0,) * 4, 2.0, 2.0),
        ((1.0, 10.0), 2.0, 0.054054),
        ((0.1, 1.0, 10.0), 5.0, 0.001835),
    ],
)
def test_the_rate_of_convergence_of_the_theorem(spectrum, start, alpha):
    """1 / q_k >= 1 / q_0 + alpha k, with equality at the first step where mu = L.

    4000 chains are the entries of one variable: so the loss and |g|^2 that the optimizer sees are
    the expectations of the theorem, times their number. Gradient noise of variance 1 a chain.
    """
    curvatures = np.array(spectrum)
    mu, L = curvatures.min(), curvatures.max()
    assert alpha == pytest.approx(mu / (1 / (2 * mu) + (L - mu) * start), rel=1e-3)
    rng = np.random.default_rng(0)
    optimizer = salr(1e9, loss_decay=0.0, square_decay=0.0)
    weights = variables(np.full((4000, len(spectrum)), math.sqrt(2 * start / len(spectrum))))
    found = []

    def noisy(x):
        q = (x**2).sum(1) / 2
        found.append((q.mean(), q.std() / math.sqrt(len(q))))
        noise = rng.normal(size=x.shape) / math.sqrt(len(spectrum))
        return (curvatures * x**2).sum() / 2, [curvatures * x + noise]

    minimise(optimizer, noisy, weights, 101)
    for k, (mean, error) in enumerate(found[1:], start=1):
        bound = 1 / (1 / start + alpha * k)
        assert mean <= bound + 4 * error
        if k == 1 and mu == L:
            assert mean == pytest.approx(bound, abs=4 * error)
    (early, _), (late, _) = found[10], found[100]
    if mu == 1:
        assert math.log10(late / early) < -0.95  # 1 / k


def test_salr_converges_without_interpolation_and_sps_does_not():
    """f(w) = E |w - z|^2 / 2: each batch has another minimum, to which Polyak's step leaps."""
    size, found = 20, {}
    for name, optimizer in {
        "salr": salr(0.5, f_star=size / 2, loss_decay=0.98, square_decay=0.98),
        "sps": optimizers.SPS(0.5),
    }.items():
        rng, distances, weights = np.random.default_rng(0), [], variables(np.full(size, 3.0))

        def batch(w, rng=rng, distances=distances):
            z = rng.normal(size=size)
            distances.append(np.mean(w**2))
            return np.sum((w - z) ** 2) / 2, [w - z]

        minimise(optimizer, batch, weights, 500)
        found[name] = np.mean(distances[-100:])
    assert found["sps"] > 0.3
    assert found["salr"] < 0.1


@pytest.mark.parametrize("kind", ["SALR", "SPS", "ALIG", "SAGD"])
def test_what_is_not_finite_is_skipped_and_counted(kind):
    """Three batches, of which SAGD has the third in its sum; memory and average stay, too."""
    optimizer = getattr(optimizers, kind)(0.1, momentum=0.5, use_ema=True, ema_momentum=0.5)
    weights = variables([1.0, -2.0], [[0.5, 3.0]])
    minimise(optimizer, parabola, weights, 3)
    counters = (optimizer.iterations, optimizer.skipped)
    state = [v for v in (*weights, *optimizer.variables) if all(v is not c for c in counters)]
    before = [np.array(ops.convert_to_numpy(v)) for v in state]
    step(optimizer, weights, math.nan, [np.zeros(2), np.zeros((1, 2))])
    step(optimizer, weights, 1.0, [np.array([math.inf, 0]), np.zeros((1, 2))])
    for v, old in zip(state, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(v), old, err_msg=v.path)
    assert int(optimizer.skipped) == 2
    minimise(optimizer, parabola, weights, 2)
    assert int(optimizer.skipped) == 2
    assert not np.array_equal(ops.convert_to_numpy(weights[0]), before[0])


def test_momentum_is_an_average_and_nesterov_looks_ahead():
    """Two steps by hand, with a rate that the cap decides."""
    for nesterov in (False, True):
        optimizer = optimizers.SPS(0.1, momentum=0.75, nesterov=nesterov, weight_decay=0.5)
        weights, w, v = variables([1.0]), 1.0, 0.0
        for g in (1.0, -2.0):
            step(optimizer, weights, 1e9, [np.array([g])])
            v = 0.75 * v + 0.25 * g
            w -= 0.1 * ((0.75 * v + 0.25 * g if nesterov else v) + 0.5 * w)
        assert float(weights[0][0]) == pytest.approx(w, rel=1e-6)


def test_moving_averages_follow_each_step():
    optimizer = salr(0.25, use_ema=True, ema_momentum=0.75)
    weights, path = variables([8.0]), []
    for g in (1.0, 2.0, 4.0):
        step(optimizer, weights, 1e9, [np.array([g])])
        path.append(float(weights[0][0]))
    assert path == pytest.approx([7.75, 7.25, 6.25])
    optimizer.finalize_variable_values(weights)
    average = 0.75 * (0.75 * path[0] + 0.25 * path[1]) + 0.25 * path[2]
    assert float(weights[0][0]) == pytest.approx(average)


class TestSAGD:
    def test_a_step_is_that_of_one_large_batch(self):
        """Three batches of 8 make the step that a batch of 24 makes."""
        weights = []
        for optimizer, size in (
            (optimizers.SAGD(0.1, smallest=3, largest=3), 8),
            (keras.optimizers.SGD(0.1), 24),
        ):
            model = network()
            model.compile(optimizer, "mse")
            model.fit(X, Y, batch_size=size, shuffle=False, verbose=0)
            weights.append(model.get_weights())
        for a, b in zip(*weights, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    def test_estimates_are_unbiased(self):
        """|grad f|^2 and the variance of a batch's gradient, from two batches a step."""
        optimizer = optimizers.SAGD(1e-12, smallest=2, largest=2, decay=0.99999)
        size, rng = 100_000, np.random.default_rng(0)
        weights = variables(np.zeros(size))
        for _ in range(20):
            step(optimizer, weights, 1.0, [0.1 + 0.3 * rng.normal(size=size)])
        # A step's estimate of the slope has standard deviation (0.0099 * size)^(1/2) = 31.
        assert float(optimizer._scalars["variance"]) == pytest.approx(size * 0.09, rel=0.01)
        assert float(optimizer._scalars["slope"]) == pytest.approx(
            size * 0.01, abs=3 * 31 / 10**0.5
        )
        assert int(optimizer.steps) == 10

    @pytest.mark.parametrize(
        ("rule", "expected"),
        [
            ("salr", 0.5 * 8 / (2 * 1.0 - 0.5 * 0.5)),
            ("norm_test", 8 / 0.5),
            ("cabs", 0.5 * 8 / 1.0),
            ("noise_scale", 8 / 0.5),
        ],
    )
    def test_rules(self, rule, expected):
        from keras_pde.optimizers.batch_rules import RULES

        function, theta = RULES[rule]
        found = float(ops.convert_to_numpy(function(0.5, 1.0, 8.0, 0.5, theta)))
        assert found == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("rule", "default", "formula"),
        [
            ("salr", 2, lambda h, V, gap, s, theta: h * V / max(theta * gap - h * s, 1e-9)),
            ("norm_test", 1, lambda h, V, gap, s, theta: V / (theta**2 * s)),
            ("cabs", 1, lambda h, V, gap, s, theta: theta * h * V / gap),
            ("noise_scale", 1, lambda h, V, gap, s, theta: theta * V / s),
        ],
    )
    @pytest.mark.parametrize("theta", [None, 1.5])
    def test_sizes_by_hand(self, rule, default, formula, theta):
        """Three steps: two batches, then as many as the rule says, which at most doubles."""
        h, f_star, decay = 2.0, -2.0, 0.4
        optimizer = optimizers.SAGD(h, rule, theta, f_star, largest=7, decay=decay)
        weights, batches, means = variables([0.0]), 2, np.zeros(3)
        for n in range(1, 4):
            i = np.arange(batches)
            gradients, losses = 2 + (1.6 + 0.2 * i) * (-1) ** i, 0.3 + 0.1 * i
            for g, loss in zip(gradients, losses, strict=True):
                step(optimizer, weights, loss, [np.array([g])])
            V = gradients.var(ddof=1)
            found = np.array([V, losses.mean() - f_star, gradients.mean() ** 2 - V / batches])
            means += max(1 / n, 1 - decay) * (found - means)
            wanted = np.ceil(formula(h, *means, theta or default))
            batches = int(np.clip(wanted, 2, min(2 * batches, 7)))
            assert int(optimizer.batches) == batches

    def test_a_batch_that_is_left_out_leaves_the_sum(self):
        optimizer, weights = optimizers.SAGD(0.1, smallest=3, largest=3), variables([0.0])
        for g in (3.0, math.nan, 3.0, 3.0):
            step(optimizer, weights, 1.0, [np.array([g])])
        assert float(weights[0][0]) == pytest.approx(-0.3)

    def test_noise_makes_batches_larger(self):
        sizes = []
        for noise in (0.01, 1.0):
            optimizer = optimizers.SAGD(0.1, "norm_test", largest=64)
            weights, rng = variables(np.zeros(20)), np.random.default_rng(0)
            for _ in range(60):
                step(optimizer, weights, 1.0, [0.3 + noise * rng.normal(size=20)])
            sizes.append(float(optimizer.batches))
        assert sizes[0] == 2
        assert sizes[1] > 5


def test_a_hidden_loss_is_an_error():
    optimizer = optimizers.ALIG(0.1)
    weights = variables([1.0])
    with pytest.raises(ValueError, match=r"has not seen the loss.*LossScaleOptimizer"):
        optimizer.apply([ops.ones(1)], weights)
    hidden = keras.optimizers.LossScaleOptimizer(optimizers.ALIG(0.1))
    model = network()
    model.compile(hidden, "mse")
    with pytest.raises(ValueError, match="has not seen the loss"):
        model.fit(X, Y, verbose=0)


def test_loss_scaling_that_forwards_the_loss():
    found = []
    for optimizer in (
        optimizers.SALR(0.05),
        optimizers.LossScaleOptimizer(optimizers.SALR(0.05), initial_scale=1024.0),
    ):
        model = network()
        model.compile(optimizer, "mse")
        model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        found.append(model.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert type(again) is optimizers.LossScaleOptimizer
    assert again.get_config() == optimizer.get_config()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optimizers.SALR(0.1, "runing_min"), "Did you mean 'running_min'"),
        (lambda: optimizers.SALR(0.1, math.nan), "f_star"),
        (lambda: optimizers.SALR(0.1, window=0), "window"),
        (lambda: optimizers.SPS(c=0.0), "c="),
        (lambda: optimizers.SAGD(rule="norm"), "Did you mean 'norm_test'"),
        (lambda: optimizers.SAGD(smallest=1), "at least 2"),
        (lambda: optimizers.SAGD(smallest=4, largest=3), "at least 4"),
        (lambda: optimizers.ALIG(gradient_accumulation_steps=2), "SAGD"),
        (lambda: optimizers.SALR(-1.0), "learning_rate"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
