"""The Hamilton-Jacobi equation in one dimension: identities, limits, and the published example."""

import numpy as np
import pytest

from keras_pde.analysis import hamilton_jacobi as hj


def double_well(y):
    return (y**2 - 1) ** 2 / 4


def valleys(y):
    """A narrow global minimum at -1.49963 and a wide one at 1.43504."""
    narrow = np.exp(-((y + 1.5) ** 2) / (2 * 0.05**2))
    return 0.05 * y**2 - narrow - 0.8 * np.exp(-((y - 1.5) ** 2) / (2 * 0.6**2))


@pytest.mark.parametrize(
    ("beta", "t", "x", "u", "slope", "mean", "variance"),
    [
        (10, 0.5, 0.5, 0.112600750262, -0.293475546781, 0.646737773390, 0.0442683211),
        (10, 0.5, 1.0, 0.033955479173, 0.038232349077, 0.980883825461, 0.0259635791),
        (10, 0.5, 1.5, 0.187294870013, 0.598344988516, 1.200827505742, 0.0188987843),
        (5, 1, 0.5, 0.119994377375, -0.120221754442, 0.620221754442, 0.1712930223),
        (5, 1, 1.0, 0.101047819175, 0.079310038183, 0.920689961817, 0.0858482566),
        (1, 1, 1.0, 0.403523540633, 0.377566568249, 0.622433431751, 0.5295333880),
        (100, 0.5, 0.5, 0.105539516796, -0.357520228563, 0.678760114282, 0.0042011919),
    ],
)
def test_double_well(beta, t, x, u, slope, mean, variance):
    found = hj.local_entropy(double_well, x, t, beta)
    assert found.value == pytest.approx(u, abs=1e-10)
    assert found.slope == pytest.approx(slope, abs=1e-9)
    assert found.mean == pytest.approx(mean, abs=1e-9)
    assert found.variance == pytest.approx(variance, abs=1e-9)


def test_cole_and_hopf_solve_the_viscous_equation():
    beta, t, x, d = 5.0, 1.0, 0.5, 1e-3

    def u(x, t):
        return hj.local_entropy(double_well, x, t, beta).value

    by_time = (u(x, t + d) - u(x, t - d)) / (2 * d)
    by_space = (u(x + d, t) - u(x - d, t)) / (2 * d)
    twice = (u(x + d, t) - 2 * u(x, t) + u(x - d, t)) / d**2
    assert by_time == pytest.approx(0.0071268, abs=1e-6)
    assert by_space == pytest.approx(-0.1202218, abs=1e-6)
    assert twice == pytest.approx(0.1435345, abs=1e-6)
    assert by_time + by_space**2 / 2 == pytest.approx(twice / (2 * beta), abs=1e-6)
    variance = hj.local_entropy(double_well, x, t, beta).variance
    assert (1 - beta * variance / t) / t == pytest.approx(twice, abs=1e-6)


def test_the_limit_without_viscosity_is_that_of_hopf_and_lax():
    x, y = np.linspace(-2, 2, 9), np.linspace(-3, 3, 600_001)
    limit, nearest = hj.hopf_lax(double_well, x, 0.5, y)
    errors = []
    for beta in (1e3, 1e4, 1e5):
        found = hj.local_entropy(double_well, x, 0.5, beta)
        errors.append(abs(found.value - limit).max())
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 1e-4
    away = x != 0  # two points are nearest to the middle
    slopes = (x - nearest) / 0.5
    np.testing.assert_allclose(slopes[away], found.slope[away], atol=2e-3)


def test_entropy_flattens_a_quadratic_and_heat_does_not():
    """A -> 1 / (1 / A + t), and A."""
    x, d, A, t = np.array([-0.1, 0.0, 0.1]), 0.1, 3.0, 0.5

    def curvature(values):
        return (values[0] - 2 * values[1] + values[2]) / d**2

    def f(y):
        return A * y**2 / 2

    entropy = hj.local_entropy(f, x, t, 7.0).value
    assert curvature(entropy) == pytest.approx(1 / (1 / A + t), rel=1e-7)
    assert curvature(hj.heat(f, x, t, 7.0)) == pytest.approx(A, rel=1e-7)
    assert entropy[1] == pytest.approx(np.log(1 + t * A) / (2 * 7.0), rel=1e-9)
    assert hj.heat(f, 0.0, t, 7.0) == pytest.approx(A * t / 7.0 / 2, rel=1e-9)


@pytest.mark.parametrize("beta", [5.0, np.inf])
def test_finite_differences(beta):
    x = np.linspace(-3, 3, 1201)
    found = hj.finite_differences(double_well, x, 0.3, beta)
    if np.isfinite(beta):
        exact = hj.local_entropy(double_well, x, 0.3, beta).value
    else:
        exact, _ = hj.hopf_lax(double_well, x, 0.3, np.linspace(-3, 3, 60_001))
    assert abs(found - exact)[abs(x) < 2].max() < 0.005
    assert abs(found - exact).max() < 0.014


@pytest.mark.parametrize("f", [lambda y: np.sin(5 * y) + y, lambda y: 0 * y])
def test_finite_differences_let_nothing_in_at_the_ends(f):
    """Where f rises from the left end on, y beyond it does not count."""
    x = np.linspace(-3, 3, 601)
    exact, _ = hj.hopf_lax(f, x, 0.3, np.linspace(-3, 3, 60_001))
    assert abs(hj.finite_differences(f, x, 0.3) - exact).max() < 0.03


@pytest.mark.parametrize(("beta", "growth"), [(np.inf, 10), (5.0, 1e5)])
def test_roundings_do_not_grow(beta, growth):
    """What another processor's kernels do to the last bits: errors of LSODA's steps are 1e-9."""
    x = np.linspace(-3, 3, 301)
    last_bits = 1e-13 * np.random.default_rng(0).normal(size=len(x))
    found = hj.finite_differences(double_well, x, 0.3, beta)
    other = hj.finite_differences(lambda y: double_well(y) + last_bits, x, 0.3, beta)
    assert abs(found - other).max() < growth * abs(last_bits).max()


def test_no_time_changes_nothing():
    x = np.linspace(-3, 3, 31)
    np.testing.assert_array_equal(hj.finite_differences(double_well, x, 0.0), double_well(x))


@pytest.mark.parametrize(
    ("beta", "t", "narrow", "wide", "winner"),
    [
        (5, 0.01, -0.73763707, -0.69010896, -1.5),
        (5, 0.05, -0.60246244, -0.68172657, 1.433),
        (5, 0.5, -0.38993504, -0.62133069, 1.420),
        (20, 0.5, -0.75593332, -0.67363584, -1.5),
        (100, 1.0, -0.85759823, -0.68643552, -1.5),
    ],
)
def test_wide_valleys_win_at_high_temperature_only(beta, t, narrow, wide, winner):
    values = hj.local_entropy(valleys, np.array([-1.49963, 1.43504]), t, beta).value
    assert values == pytest.approx([narrow, wide], abs=1e-8)
    x = np.linspace(-3, 3, 1201)
    lowest = x[hj.local_entropy(valleys, x, t, beta).value.argmin()]
    assert lowest == pytest.approx(winner, abs=0.02)


def test_sampled_slopes_are_those_of_quadrature_and_of_a_quadratic():
    found = hj.sampled_slope(lambda y: double_well(y[:, 0]), [0.5], 0.5, 10, 400_000)
    assert found[0] == pytest.approx(-0.293475546781, abs=0.01)
    A = np.diag([1.0, 3.0])
    x = np.array([1.0, -1.0])
    found = hj.sampled_slope(lambda y: np.einsum("ni,ij,nj->n", y, A, y) / 2, x, 0.5, 2.0, 400_000)
    np.testing.assert_allclose(
        found, np.linalg.inv(np.linalg.inv(A) + 0.5 * np.eye(2)) @ x, atol=0.01
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: hj.local_entropy(f, 0.0, 0.0, 1.0), "t=0.0; expected a finite number above 0"),
        (lambda f: hj.local_entropy(f, 0.0, 1.0, np.inf), "beta=inf"),
        (lambda f: hj.heat(f, 0.0, 1.0, -1.0), "beta=-1.0"),
        (lambda f: hj.hopf_lax(f, 0.0, -1.0, np.linspace(-1, 1, 9)), "t=-1.0"),
        (lambda f: hj.sampled_slope(f, np.zeros(1), 1.0, 1.0, samples=0), "samples=0"),
        (lambda f: hj.finite_differences(f, np.array([0, 1, 3.0]), 1.0), "not equidistant"),
        (lambda f: hj.finite_differences(f, np.linspace(0, 1, 9), 1.0, -2.0), "beta=-2.0"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.square)


def test_expected_improvement():
    free, controlled, effort = hj.expected_improvement(a=1, v=2, time=1, start=1, noise=0.1)
    assert free == pytest.approx(0.178568519, abs=1e-8)
    assert controlled == pytest.approx(0.062108817, abs=1e-8)
    assert effort == pytest.approx(0.083248259, abs=1e-8)
    assert controlled <= free - effort / 2
    assert free - effort / 2 == pytest.approx(0.136944389, abs=1e-8)


def test_cartoon(tmp_path):
    hj.cartoon(tmp_path / "cartoon.png")
    assert (tmp_path / "cartoon.png").stat().st_size > 10_000
