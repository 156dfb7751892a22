"""The norms' geometry: properties that hold for all tensors, and independent solutions."""

import functools

import keras
import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from keras import ops

from keras_pde import autodiff, geometry, noise

BACKEND = keras.backend.backend()
NORMS = geometry.names()
# Few shapes, since JAX compiles every operation for each of them; ranks 2 to 5.
SHAPES = [(3, 4), (2, 1), (2, 2, 3), (1, 2, 2, 3), (2, 2, 1, 2, 2)]
bounded = settings(max_examples=25, deadline=None, derandomize=True, database=None)

each_norm = pytest.mark.parametrize("name", NORMS)


def numpy(x):
    return ops.convert_to_numpy(x)


@functools.cache
def method(name, what, shape=None):
    """A norm's method, compiled on JAX, which otherwise compiles each operation by itself."""
    fn = getattr(geometry.get(name), what)
    if shape is not None:
        return jit(lambda keys, radius: fn(keys, shape, radius))
    return jit(fn)


def jit(fn):
    if BACKEND != "jax":
        return fn
    import jax

    return jax.jit(fn)


def apply(name, what, x, *arguments):
    """The result of a norm's method as an array; `random` takes a shape."""
    if what == "random":
        shape, radius = arguments
        return numpy(method(name, what, shape)(x, np.float32(radius)))
    return numpy(method(name, what)(x, *(np.float32(a) for a in arguments)))


def length(name, x):
    """The norm of each example, independently: float64, numpy."""
    flat = np.asarray(x, "float64").reshape(len(x), -1)
    return np.linalg.norm(flat, {"l1": 1, "l2": 2, "linf": np.inf}[name], axis=1)


def dual(name):
    return {"l1": "linf", "l2": "l2", "linf": "l1"}[name]


def inner(x, y):
    return (np.asarray(x, "float64") * np.asarray(y, "float64")).reshape(len(x), -1).sum(axis=1)


def rows(values, x):
    return np.reshape(values, (-1,) + (1,) * (x.ndim - 1))


@st.composite
def tensors(draw):
    """float32 batches: zeros, ties and mixed signs, each example on its own scale."""
    shape = draw(st.sampled_from(SHAPES))
    entries = st.one_of(
        st.sampled_from([0.0, 1.0, -1.0, 0.5]),
        st.floats(0.0009765625, 1, width=32).flatmap(lambda v: st.sampled_from([v, -v])),
    )
    x = draw(arrays.arrays("float32", shape, elements=entries))
    scales = st.sampled_from([1e-30, 1e-3, 1.0, 1e3, 1e30])
    scale = draw(st.lists(scales, min_size=shape[0], max_size=shape[0]))
    return x * rows(np.array(scale, "float32"), x)


radii = st.one_of(
    st.sampled_from([0.0, 1e-30, 0.5, 1.0, 1e30, float("inf")]),
    st.lists(st.sampled_from([0.0, 1e-3, 0.7, 2.0, 1e4, float("inf")]), min_size=3, max_size=3),
)


def fit(radius, x):
    """A scalar radius as it is, a list as one radius an example."""
    return radius if np.isscalar(radius) else np.array(radius[: len(x)], "float32")


def ball(name, x, radius):
    """`x` projected, and the radius of each example in float64."""
    p = apply(name, "project", x, radius)
    assert p.shape == x.shape and p.dtype == x.dtype
    assert np.isfinite(p).all()
    return p, np.broadcast_to(np.asarray(radius, "float64"), len(x))


LONG = np.random.default_rng(0).normal(size=(2, 500)).astype("float32") * 1e4


@each_norm
class TestProjection:
    @bounded
    @given(x=tensors(), radius=radii)
    @example(x=LONG, radius=1.0)
    def test_stays_in_the_ball_and_is_idempotent(self, name, x, radius):
        radius = fit(radius, x)
        p, r = ball(name, x, radius)
        assert np.all(length(name, p) <= r * (1 + 1e-5))
        again, _ = ball(name, p, radius)
        assert np.all(length("linf", again - p) <= 1e-5 * length("linf", p))

    @bounded
    @given(x=tensors(), radius=radii)
    def test_what_is_inside_stays_exactly(self, name, x, radius):
        radius = fit(radius, x)
        p, r = ball(name, x, radius)
        inside = length(name, x) <= r * (1 - 1e-5)
        np.testing.assert_array_equal(p[inside], x[inside])

    @bounded
    @given(x=tensors(), radius=radii)
    @example(x=LONG, radius=1.0)
    def test_is_the_nearest_point(self, name, x, radius):
        # p is nearest exactly when <x - p, q> <= <x - p, p> for all q of the ball; the left side
        # is at most radius * |x - p|_dual.
        radius = fit(radius, x)
        p, r = ball(name, x, radius)
        normal = x.astype("float64") - p
        outside = length(name, x) > r
        bound = r[outside] * length(dual(name), normal)[outside]
        assert np.all(bound - inner(normal, p)[outside] <= 2e-5 * bound)

    @bounded
    @given(x=tensors(), radius=st.sampled_from([1e-3, 0.7, 5.0]), seed=st.integers(0, 99))
    def test_no_random_feasible_point_is_nearer(self, name, x, radius, seed):
        p, _ = ball(name, x, radius)
        mine = length("l2", x.astype("float64") - p)
        rng = np.random.default_rng(seed)
        for size in (1e-4, 1e-3, 1e-2, 0.1, 1.0):
            for centre in (0.0, p.astype("float64")):
                point = centre + size * radius * rng.normal(size=x.shape)
                scale = np.minimum(1.0, radius / np.maximum(length(name, point), 1e-300))
                other = length("l2", x.astype("float64") - point * rows(scale, x))
                assert np.all(mine <= other * (1 + 1e-6) + 1e-6 * radius)

    def test_zero_radius_and_zero_perturbation(self, name):
        x = np.array([[1.0, -2.0, 0.0], [0.0, 0.0, 0.0]], "float32")
        np.testing.assert_array_equal(ball(name, x, 0.0)[0], 0 * x)
        np.testing.assert_array_equal(ball(name, 0 * x, 1.0)[0], 0 * x)

    def test_radius_per_example(self, name):
        x = np.full((3, 2, 2), 4.0, "float32")
        radius = np.array([0.0, 1.0, np.inf], "float32")
        p, _ = ball(name, x, radius)
        for i in range(3):
            np.testing.assert_allclose(p[i : i + 1], ball(name, x[i : i + 1], float(radius[i]))[0])


def simplex_solution(x, radius):
    """Projection on the L1 ball by bisection of the threshold, one float64 example."""
    low, high = 0.0, np.abs(x).max()
    for _ in range(200):
        threshold = (low + high) / 2
        if np.maximum(np.abs(x) - threshold, 0).sum() > radius:
            low = threshold
        else:
            high = threshold
    return np.sign(x) * np.maximum(np.abs(x) - high, 0)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e5, 1e30])
@pytest.mark.parametrize("size", [2, 50, 3000])
def test_l1_projection_equals_an_independent_solution(size, scale):
    # The radius on the scale of the entries, and one far below it: no digits may be lost.
    x = np.random.default_rng(size).laplace(size=(4, size)).astype("float32")
    x[0] = np.round(x[0])  # ties
    x *= np.float32(scale)
    for radius in (0.3 * scale * np.sqrt(size), 1e-3 * scale):
        p, _ = ball("l1", x, radius)
        expected = np.stack([simplex_solution(row, radius) for row in x.astype("float64")])
        # TensorFlow and JAX flush what is smaller than the smallest normal number.
        tiny = 4 * np.finfo("float32").tiny
        np.testing.assert_allclose(p, expected, rtol=1e-5, atol=1e-5 * radius + tiny)


@each_norm
class TestSteepest:
    @bounded
    @given(g=tensors())
    def test_unit_length_attains_the_dual_norm(self, name, g):
        norm = geometry.get(name)
        s = apply(name, "steepest", g)
        assert s.shape == g.shape and s.dtype == g.dtype
        zero = length("linf", g) == 0
        np.testing.assert_array_equal(s[zero], g[zero])
        np.testing.assert_allclose(length(name, s)[~zero], 1.0, rtol=1e-5)
        np.testing.assert_allclose(inner(g, s), length(norm.dual.name, g), rtol=1e-5)

    @bounded
    @given(g=tensors(), seed=st.integers(0, 99))
    def test_no_other_direction_is_steeper(self, name, g, seed):
        s = apply(name, "steepest", g)
        other = np.random.default_rng(seed).normal(size=(20, *g.shape))
        for d in other:
            d = d / rows(length(name, d), g)
            assert np.all(inner(g, d) <= inner(g, s) + 1e-6 * length("l1", g))


def test_steepest_l1_is_one_pixel_and_ties_go_to_the_first():
    g = np.array([[[1.0, -3.0], [3.0, 0.0]]], "float32")
    s = apply("l1", "steepest", g)
    np.testing.assert_array_equal(s, [[[0.0, -1.0], [0.0, 0.0]]])


def test_steepest_l1_takes_an_infinite_entry():
    g = np.array([[1.0, -np.inf, 0.0]], "float32")
    np.testing.assert_array_equal(apply("l1", "steepest", g), [[0.0, -1.0, 0.0]])


@each_norm
class TestNorm:
    @bounded
    @given(x=tensors(), target=st.sampled_from([0.0, 1e-3, 2.0]))
    def test_value_and_rescale(self, name, x, target):
        value = apply(name, "norm", x)
        assert value.shape == (len(x),)
        np.testing.assert_allclose(value, length(name, x), rtol=1e-5)
        scaled = apply(name, "rescale", x, target)
        zero = length("linf", x) == 0
        np.testing.assert_array_equal(scaled[zero], x[zero])
        np.testing.assert_allclose(length(name, scaled)[~zero], target, rtol=1e-5)

    @pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
    def test_derivative_is_the_dual_direction(self, name, scale):
        norm = geometry.get(name)
        x = np.array([[[0.3, -0.5], [0.0, 0.8]], [[0.0, 0.0], [0.0, 0.0]]], "float32") * scale
        x = ops.convert_to_tensor(x.astype("float32"))
        gradient = autodiff.value_and_grad(lambda z: ops.sum(norm.norm(z)), x)[1]
        np.testing.assert_allclose(numpy(gradient), numpy(norm.dual.steepest(x)), rtol=1e-5)
        assert not np.any(numpy(gradient)[1]), "the slope at 0 is 0, not NaN"

    def test_second_derivative_is_finite_at_zero(self, name):
        norm = geometry.get(name)

        def slope(x):
            gradient = autodiff.value_and_grad(lambda z: ops.sum(norm.norm(z) ** 2), x)[1]
            return ops.sum(gradient * gradient)

        gradient = autodiff.value_and_grad(slope, ops.zeros((2, 3)))[1]
        np.testing.assert_array_equal(numpy(gradient), np.zeros((2, 3)))

    def test_dual_pairs(self, name):
        norm = geometry.get(name)
        assert norm.dual.name == dual(name)
        assert norm.dual.dual == norm
        assert geometry.get(norm) is norm
        assert hash(norm) == hash(geometry.get(name))
        assert repr(norm) == f"Norm({name!r})"


def test_l2_second_derivative_closed_form():
    # The Hessian of |x| is (1 - x x^T / |x|^2) / |x|.
    x, v = np.array([[3.0, 4.0]], "float32"), np.array([[1.0, 0.0]], "float32")
    product = autodiff.hvp(lambda z: ops.sum(geometry.get("l2").norm(z)), x, v)[1]
    np.testing.assert_allclose(numpy(product), [[(1 - 9 / 25) / 5, -12 / 25 / 5]], rtol=1e-5)


def points(name, count, shape, radius, start=0):
    keys = noise.keys(5, 0, np.arange(start, start + count, dtype="int32"))
    return apply(name, "random", keys, shape, radius)


@each_norm
class TestRandom:
    @pytest.mark.parametrize("shape", [(1,), (3, 2), (5, 1, 3)])
    def test_uniform_in_the_ball(self, name, shape):
        x = points(name, 5000, shape, 0.3)
        assert x.shape == (5000, *shape) and x.dtype == "float32"
        r = length(name, x) / 0.3
        assert r.max() <= 1 + 1e-6
        assert scipy.stats.kstest(r ** x[0].size, "uniform").pvalue > 0.01  # P(|x| < r) = r^d
        mean, spread = x.mean(axis=0), x.std(axis=0)
        assert np.all(np.abs(mean) < 4.5 * spread / np.sqrt(len(x)))  # centred
        assert np.all(np.abs(spread / spread.mean() - 1) < 0.05)  # every entry alike

    def test_uniform_direction(self, name):
        x = points(name, 2000, (2,), 1.0)
        coordinates = {
            "l1": (x.sum(axis=1) + 1) / 2,  # the diamond is a square, turned
            "l2": np.arctan2(x[:, 1], x[:, 0]) / (2 * np.pi) + 0.5,
            "linf": (x[:, 0] + 1) / 2,
        }
        assert scipy.stats.kstest(coordinates[name], "uniform").pvalue > 0.01

    def test_an_example_does_not_depend_on_the_batch(self, name):
        # The bits are the same; a vectorised logarithm may round its last lane otherwise.
        whole, part = points(name, 5, (2, 2), 1.0), points(name, 2, (2, 2), 1.0, start=3)
        np.testing.assert_allclose(part, whole[3:], rtol=5e-7)

    def test_radius_per_example(self, name):
        radius = np.array([0.0, 1.0, 5.0], "float32")
        x, unit = points(name, 3, (2, 2), radius), points(name, 3, (2, 2), 1.0)
        np.testing.assert_allclose(x, unit * rows(radius, unit), rtol=1e-5, atol=1e-7)


def test_unknown_norm():
    with pytest.raises(ValueError, match="Did you mean 'linf'"):
        geometry.get("lin")


def test_every_norm_is_tested():
    assert sorted(NORMS) == ["l1", "l2", "linf"]
