"""Entropy-SGD and its relatives against closed forms, Gibbs laws, and each other."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from optimizer_cases import minimise, parabola, variables

from keras_pde import optimizers

pytestmark = pytest.mark.usefixtures("float64")


def quadratic(curvature, minimum):
    def problem(w):
        return curvature * np.sum((w - minimum) ** 2) / 2, [curvature * (w - minimum)]

    return problem


def after(optimizer, problem, start, steps):
    weights = variables(np.atleast_1d(start), dtype="float64")
    minimise(optimizer, problem, weights, steps)
    return ops.convert_to_numpy(weights[0])


def mean_after(a, m, x, scope, rate, alpha, L):
    """mu_L on (a / 2)(y - m)^2: with xb the fixed point, r and c the factors of y and the mean."""
    xb = (a * m + scope * x) / (a + scope)
    r, c = 1 - rate * (a + scope), 1 - alpha
    power = alpha * L * r**L if math.isclose(r, c) else alpha * r * (r**L - c**L) / (r - c)
    return xb + (x - xb) * (c**L + power)


@pytest.mark.parametrize(
    ("a", "m", "x", "scope", "rate", "alpha", "L", "expected"),
    [
        (2, 0.3, 1.5, 0.03, 0.1, 0.75, 20, 0.331550994366),
        (2, 0.3, 1.5, 1, 0.1, 0.25, 20, 0.709182179524),
        (1, 0, 1, 0.5, 0.1, 0.75, 5, 0.647583906250),
        (2, 0.3, 1.5, 0.5, 0.1, 0.25, 7, None),  # r = c
    ],
)
def test_mean_of_a_cycle_on_a_quadratic(a, m, x, scope, rate, alpha, L, expected):
    closed = mean_after(a, m, x, scope, rate, alpha, L)
    if expected:
        assert closed == pytest.approx(expected, rel=1e-11)
    optimizer = optimizers.EntropySGD(1.0, rate, L, scope, 0.0, alpha)
    assert after(optimizer, quadratic(a, m), x, L)[0] == pytest.approx(closed, rel=1e-7)


def test_scope_grows_with_each_cycle():
    x, scope = 1.5, 0.5
    optimizer = optimizers.EntropySGD(0.5, 0.1, 4, scope, 0.2, 0.75)
    for _ in range(3):
        mean = mean_after(2, 0.3, x, scope, 0.1, 0.75, 4)
        x, scope = x - 0.5 * (x - mean), 1.2 * scope
    assert after(optimizer, quadratic(2, 0.3), 1.5, 12)[0] == pytest.approx(x, rel=1e-6)


def test_cycles_by_hand():
    """Momentum in both loops, decay with the inner rate, a schedule of the outer one, averages."""
    rates, decay, scope = [0.75, 0.5, 0.25], 0.3, 0.5
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([3, 7], rates)
    optimizer = optimizers.EntropySGD(
        schedule, 0.05, 4, scope, 0.2, 0.6, momentum=0.5, inner_momentum=0.7,
        weight_decay=decay, use_ema=True, ema_momentum=0.8,
    )  # fmt: skip
    x, outer, average = np.array([1.0, -2.0]), 0.0, None
    weights = variables(x, dtype="float64")
    problem = quadratic(2.0, 0.3)
    minimise(optimizer, problem, weights, 12)
    for cycle, rate in enumerate(rates):
        y, mean, inner = x, x, 0.0
        for _ in range(4):
            gradient, y = problem(y)[1][0], y * (1 - decay * 0.05)
            d = gradient + scope * 1.2**cycle * (y - x)
            inner = 0.7 * inner + d
            y = y - 0.05 * (d + 0.7 * inner)
            mean = 0.4 * mean + 0.6 * y
        outer = 0.5 * outer + (x - mean)
        x = x - rate * ((x - mean) + 0.5 * outer)
        average = 0.8 * average + 0.2 * x if cycle else x
    np.testing.assert_allclose(ops.convert_to_numpy(weights[0]), x, rtol=1e-6)
    optimizer.finalize_variable_values(weights)
    np.testing.assert_allclose(ops.convert_to_numpy(weights[0]), average, rtol=1e-6)


@pytest.mark.parametrize("scope", [0.0, 3.0])
def test_one_inner_step_is_sgd(scope):
    entropy = optimizers.EntropySGD(1.0, 0.1, 1, scope, 0.0, 1.0)
    plain = keras.optimizers.SGD(0.1)
    first, second = variables([1.0, -2.0], [[0.5, 3.0]]), variables([1.0, -2.0], [[0.5, 3.0]])
    minimise(entropy, parabola, first, 5)
    for _ in range(5):
        gradients = parabola(*map(ops.convert_to_numpy, second))[1]
        plain.apply([ops.convert_to_tensor(g, "float32") for g in gradients], second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_without_force_it_is_lookahead():
    entropy = optimizers.EntropySGD(0.4, 0.1, 5, 0.0, 0.0, 1.0)
    lookahead = optimizers.Lookahead(keras.optimizers.SGD(0.1), 5, 0.4)
    found = []
    for optimizer in (entropy, lookahead):
        weights = variables([1.0, -2.0], [[0.5, 3.0]])
        minimise(optimizer, parabola, weights, 13)
        found.append([ops.convert_to_numpy(w) for w in weights])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_proximal_point_contracts_by_the_envelope():
    """With an exact inner solution x contracts by scope / (a + scope)."""
    optimizer = optimizers.HamiltonJacobi(1.0, 0.2, 60, scope=1.5, scope_growth=0.0)
    found = after(optimizer, quadratic(2.0, 0.0), 1.0, 180)[0]
    assert found == pytest.approx((1.5 / 3.5) ** 3, rel=1e-6)


def test_fixed_point_finds_the_slope_of_the_envelope():
    """p = a (x - t p), so p = a x / (1 + a t)."""
    optimizer = optimizers.FixedPointHJ(0.1, inner_steps=60, scope=2.0, average_weight=0.5)
    found = after(optimizer, quadratic(2.0, 0.0), 1.0, 60)[0]
    assert found == pytest.approx(1 - 0.1 * 2 / (1 + 2 / 2), rel=1e-6)


def test_heat_leaves_the_curvature_of_a_quadratic():
    """Its slope is that of the loss itself, up to the mean of the draws."""
    optimizer = optimizers.HeatSGD(0.1, inner_steps=3, scope=2.0, temperature=0.5)
    found = after(optimizer, quadratic(2.0, 0.0), np.ones(20_000), 3)
    deviation = 0.1 * 2 * math.sqrt(0.25 / 2)  # of one entry: two draws of variance 1/4
    assert found.mean() == pytest.approx(1 - 0.2, abs=4 * deviation / math.sqrt(20_000))
    assert found.std() == pytest.approx(deviation, rel=0.03)


def cycle_of(problem, x, temperature, t, rate, steps, chains=4000):
    """y of independent chains, one an entry, after a long part of one cycle around x."""
    optimizer = optimizers.EntropySGD(1.0, rate, 10**6, 1 / t, 0.0, 1.0, temperature)
    return after(optimizer, problem, np.full(chains, x), steps)


def test_chains_have_the_variance_of_constant_step_langevin():
    """(T / kappa) / (1 - rate kappa / 2): 1.17647 times the Gibbs law's at kappa = 3."""
    y = cycle_of(quadratic(2.0, 0.0), 1.0, 0.1, 1.0, 0.1, 120, chains=40_000)
    variance = 0.1 / 3 / (1 - 0.1 * 3 / 2)
    assert variance / (0.1 / 3) == pytest.approx(1.17647, rel=1e-5)
    assert y.var() == pytest.approx(variance, rel=4 * math.sqrt(2 / 40_000))
    assert y.mean() == pytest.approx(1 / 3, abs=4 * math.sqrt(variance / 40_000))


@pytest.mark.parametrize(("rate", "grows"), [(0.65, False), (0.68, True)])
def test_inner_steps_are_stable_up_to_their_limit(rate, grows):
    """rate (a + scope) = 2 at 2/3."""
    y = cycle_of(quadratic(2.0, 0.0), 1.0, 0.0, 1.0, rate, 200, chains=1)
    assert (abs(y[0]) > 1) == grows


def double_well(y):
    return np.sum((y**2 - 1) ** 2) / 4, [y * (y**2 - 1)]


@pytest.mark.parametrize(
    ("beta", "t", "x", "slope", "mean", "variance"),
    [
        (10, 0.5, 0.5, -0.293475546781, 0.646737773390, 0.0442683211),
        (10, 0.5, 1.0, 0.038232349077, 0.980883825461, 0.0259635791),
        (10, 0.5, 1.5, 0.598344988516, 1.200827505742, 0.0188987843),
        (5, 1.0, 0.5, -0.120221754442, 0.620221754442, 0.1712930223),
        (5, 1.0, 1.0, 0.079310038183, 0.920689961817, 0.0858482566),
        (1, 1.0, 1.0, 0.377566568249, 0.622433431751, 0.5295333880),
        (100, 0.5, 0.5, -0.357520228563, 0.678760114282, 0.0042011919),
    ],
)
def test_chains_in_a_double_well_follow_the_gibbs_law(beta, t, x, slope, mean, variance):
    """Within four standard errors, and the bias of a small step, which is of first order in it."""
    rate, chains = 0.02, 8000
    y = cycle_of(double_well, x, 1 / beta, t, rate, 400, chains)
    error = 4 * math.sqrt(variance / chains)
    assert y.mean() == pytest.approx(mean, abs=error + 0.05 * rate)
    assert (x - y.mean()) / t == pytest.approx(slope, abs=(error + 0.05 * rate) / t)
    assert y.var() == pytest.approx(variance, rel=0.08)


def test_each_fit_has_other_noise():
    """Without gradients the weights make a random walk; three times one batch."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(50)])
    model.compile(optimizers.EntropySGD(inner_steps=1, average_weight=1.0, temperature=1e-2), "mse")
    walk = [model.get_weights()[0]]
    for _ in range(3):
        model.fit(np.zeros((1, 1)), model.get_weights()[1][None], verbose=0)
        walk.append(model.get_weights()[0])
    a, b, c = np.diff(walk, axis=0)[:, 0]
    for first, second in ((a, b), (b, c), (a, c)):
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.5


def test_noise_differs_between_variables_and_seeds():
    found = []
    for seed in (0, 1):
        optimizer = optimizers.EntropySGD(temperature=0.1, seed=seed)
        weights = variables(np.zeros(50), np.zeros(50))
        minimise(optimizer, lambda w, v: (0.0, [0 * w, 0 * v]), weights, 1)
        found += [ops.convert_to_numpy(w) for w in weights]
    off = np.corrcoef(found) - np.eye(4)
    assert abs(off).max() < 0.6


def test_cycles_that_do_not_end_are_not_counted():
    optimizer, weights = optimizers.EntropySGD(inner_steps=20, scope_growth=1.0), variables([1.0])
    for _ in range(4):
        minimise(optimizer, quadratic(1.0, 0.0), weights, 15)
        with pytest.warns(UserWarning, match="the last 15 are lost"):
            optimizer.finalize_variable_values(weights)
    assert int(optimizer.cycle) == 0
    minimise(optimizer, quadratic(1.0, 0.0), weights, 20)
    assert float(optimizer.logged["scope"]) == pytest.approx(2e-4)


def test_the_limit_without_noise_refuses_it():
    for noise in ("temperature", "thermal_noise"):
        with pytest.raises(ValueError, match="the limit without noise"):
            optimizers.HamiltonJacobi(**{noise: 0.1})
    limit = optimizers.HamiltonJacobi.paper("allcnn", batches=3)
    assert (limit.scope, limit.temperature) == (0.03, 0)


def test_thermal_noise_is_a_temperature():
    assert optimizers.EntropySGD(thermal_noise=1e-3).temperature == pytest.approx(5e-7)
    with pytest.raises(ValueError, match="one of them"):
        optimizers.EntropySGD(thermal_noise=1e-3, temperature=1.0)


def test_settings_of_the_paper():
    """All-CNN: ten outer epochs of 20 inner steps a batch; the rate drops after the 4th and 8th."""
    optimizer = optimizers.EntropySGD.paper("allcnn", batches=3)
    assert (optimizer.scope, optimizer.temperature) == (0.03, pytest.approx(5e-9))
    schedule = optimizer._learning_rate
    rates = [float(schedule(epoch * 20 * 3 + 1)) for epoch in (0, 3, 4, 7, 8, 9)]
    assert rates == pytest.approx([1, 1, 0.2, 0.2, 0.04, 0.04])
    for network in ("mnistfc", "lenet", "ptb"):
        assert optimizers.EntropySGD.paper(network, 3, seed=7).seed == 7
    with pytest.raises(ValueError, match="Did you mean 'lenet'"):
        optimizers.EntropySGD.paper("lanet", 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inner_steps": 0}, "inner_steps"),
        ({"inner_steps": 2.5}, "inner_steps"),
        ({"scope": -1.0}, "scope"),
        ({"temperature": -1.0}, "temperature"),
        ({"average_weight": 0.0}, "average_weight"),
        ({"evaluation_weights": "mena"}, "Did you mean 'mean'"),
        ({"ema_overwrite_frequency": 5, "use_ema": True}, "ema_overwrite_frequency"),
        ({"momentum": 1.0}, "below 1"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"inner_learning_rate": keras.optimizers.schedules.CosineDecay(0.1, 9)}, "finite number"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        optimizers.EntropySGD(**arguments)


def test_an_outer_rate_that_stalls_is_told():
    stalls = keras.optimizers.schedules.ExponentialDecay(0.05, 100, 0.5)
    for rate in (0.05, stalls):
        with pytest.warns(UserWarning, match=r"5.0% of the way .* 20 times slower .*inner_learn"):
            optimizers.EntropySGD(rate)
    optimizers.EntropySGD(keras.optimizers.schedules.CosineDecay(1.0, 100))
