"""The stable layers: adjoints, norms, equations."""

import keras
import numpy as np
import pytest
from keras import ops
from stable_cases import jacobian, normal, run, small

from keras_pde import layers
from keras_pde.layers.stable import stable_rate
from keras_pde.layers.stable.stable_rate import adjoint, crude_norm, linear, operator_norm


class TestKernels:
    @pytest.mark.parametrize(("size", "filters"), [(None, 4), (1, 3), (3, 5), (5, 2)])
    def test_adjoint(self, size, filters, float64):
        space = () if size is None else (7, 6)
        kernel = normal(*(() if size is None else (size, size)), 3, filters)
        x, y = normal(2, *space, 3, seed=1), normal(2, *space, filters, seed=2)
        left = np.sum(y * ops.convert_to_numpy(linear(x, kernel)))
        for transposed in (adjoint(kernel), adjoint(ops.convert_to_tensor(kernel))):
            right = np.sum(x * ops.convert_to_numpy(linear(y, transposed)))
            assert left == pytest.approx(right, rel=1e-12)

    @pytest.mark.parametrize("size", [3, 5])
    def test_the_antisymmetric_convolution_is(self, size):
        kind, shape = layers.AntisymmetricConv2D, (3, 7, 6, 4)
        layer = kind(kernel_size=size, activation="linear", use_bias=False)
        x, y = normal(*shape, seed=1), normal(*shape, seed=2)
        left, right = np.sum(y * run(layer, x)), np.sum(x * run(layer, y))
        assert left == pytest.approx(-right, abs=1e-4)
        assert abs(left) > 1

    @pytest.mark.parametrize(("size", "seed"), [(1, 0), (3, 1), (3, 2), (5, 3)])
    def test_convolution_norm_against_the_matrix(self, size, seed):
        kernel, side = normal(size, size, 2, 3, seed=seed), 3 * size + 3
        units = np.eye(side * side * 2, dtype="float32").reshape(-1, side, side, 2)
        matrix = ops.convert_to_numpy(linear(units, kernel.astype("float32"))).reshape(
            len(units), -1
        )
        exact = np.linalg.norm(matrix, 2)
        assert exact <= operator_norm(kernel) <= 1.1 * exact
        assert exact <= crude_norm(kernel) <= size * operator_norm(kernel)

    @pytest.mark.parametrize("antisymmetric", [False, True])
    def test_convolution_norm_against_power_iteration(self, antisymmetric):
        kernel = normal(3, 3, 4, 4).astype("float32")
        kernel = kernel - adjoint(kernel) if antisymmetric else kernel
        x, transposed = normal(1, 32, 32, 4, seed=1).astype("float32"), adjoint(kernel)
        for _ in range(100):
            x = x / np.linalg.norm(x)
            x = ops.convert_to_numpy(linear(linear(x, kernel), transposed))
        measured = np.linalg.norm(x) ** 0.5
        assert measured <= operator_norm(kernel) <= 1.1 * measured

    @pytest.mark.parametrize("phase", np.linspace(0, 1, 5))
    def test_the_bound_holds_where_the_grid_misses_the_maximum(self, phase):
        # |1 + exp(i (w - shift))| is 2 at w = shift, between two points of the grid.
        shift = phase * np.pi / 8
        kernel = np.zeros((1, 3, 2, 2))
        turn = np.array([[np.cos(shift), -np.sin(shift)], [np.sin(shift), np.cos(shift)]])
        kernel[0, 1], kernel[0, 2] = np.eye(2), turn
        assert 2 <= operator_norm(kernel) <= 2.08

    def test_matrix_norm_is_exact(self):
        assert operator_norm(np.diag([3.0, -4.0])) == pytest.approx(4, rel=1e-12)
        assert crude_norm(np.diag([3.0, -4.0])) == pytest.approx(4, rel=1e-12)


class TestActivations:
    @pytest.mark.parametrize("name", stable_rate.MONOTONE)
    def test_slopes(self, name, float64):
        x = np.linspace(-8, 8, 4001)
        y = ops.convert_to_numpy(keras.activations.get(name)(ops.convert_to_tensor(x)))
        slopes = np.diff(y) / np.diff(x)
        assert slopes.min() > -1e-9 and slopes.max() < 1 + 1e-9

    @pytest.mark.parametrize("name", ["gelu", "silu", "selu"])
    def test_others_are_refused(self, name):
        with pytest.raises(ValueError, match="slope between 0 and 1"):
            layers.SymmetricDense(activation=name)

    def test_a_function_of_ones_own(self):
        def half(x):
            return x / 2

        layer = layers.AntisymmetricDense(activation=half)
        doubled = layers.AntisymmetricDense(activation="linear")
        x = normal(3, 4).astype("float32")
        doubled.build(x.shape)
        layer.build(x.shape)
        layer.set_weights(doubled.get_weights())
        np.testing.assert_allclose(2 * run(layer, x), run(doubled, x), rtol=1e-6)


class TestEquations:
    """The rates by their formulas, and the eigenvalues of their true Jacobians."""

    def test_antisymmetric(self, float64):
        layer, x = layers.AntisymmetricDense(gamma=0.3), normal(6, 5)
        layer.build(x.shape)
        layer.bias.assign(normal(5, seed=1))
        K, b = layer.get_weights()
        np.testing.assert_allclose(run(layer, x), np.tanh(x @ (K - K.T) - 0.3 * x + b), rtol=1e-9)
        _, w = layer.eigenvalue_range()
        assert w == pytest.approx(np.linalg.norm(K - K.T, 2), rel=1e-6)
        for point in x:
            eigenvalues = np.linalg.eigvals(jacobian(layer, point))
            assert eigenvalues.real.max() < 0 and eigenvalues.real.min() > -0.3
            # In the triangle of 0 and -gamma +- i w.
            assert np.all(abs(eigenvalues.imag) <= -eigenvalues.real / 0.3 * w)

    @pytest.mark.parametrize("normalization", [None, "batch"])
    @pytest.mark.parametrize("scale", [1.0, -1.0])
    def test_symmetric(self, normalization, scale, float64):
        layer = layers.SymmetricDense(7, normalization, activation="tanh")
        x = normal(6, 5)
        layer.build(x.shape)
        K, N = ops.convert_to_numpy(layer.kernel), x @ ops.convert_to_numpy(layer.kernel)
        if normalization:
            signs = np.where(np.arange(7) < 3, scale, 1.0)
            layer.normalizer.gamma.assign(1.5 * signs)
            layer.normalizer.moving_variance.assign(np.linspace(0.2, 2, 7))
            N = 1.5 * signs * N / np.sqrt(np.linspace(0.2, 2, 7) + 1e-5)
        np.testing.assert_allclose(run(layer, x), -np.tanh(N) @ K.T, rtol=1e-9)
        least, greatest = layer.eigenvalue_range()
        assert (least < 0) == (normalization == "batch" and scale < 0)
        sizes = np.concatenate([-np.linalg.eigvals(jacobian(layer, p)) for p in [*x, 0 * x[0]]])
        assert abs(sizes.imag).max() < 1e-9
        assert least - 1e-9 <= sizes.real.min() and sizes.real.max() <= greatest * (1 + 1e-9)
        if least == 0:  # at zero every slope is 1, and the bound is attained
            assert sizes.real.max() == pytest.approx(greatest, rel=1e-6)

    def test_tv_normalization_attains_its_bound_at_zero(self, float64):
        layer = layers.SymmetricDense(7, "tv", activation="tanh")
        layer.build((None, 5))
        layer.normalizer.s.assign(np.linspace(0.5, 2, 7))
        sizes = -np.linalg.eigvals(jacobian(layer, np.zeros(5)))
        assert sizes.real.max() == pytest.approx(layer.eigenvalue_range()[1], rel=1e-6)

    def test_sign_turns_it_round(self):
        x = normal(2, 5, 5, 3).astype("float32")
        heat, other = (layers.SymmetricConv2D(sign=s, kernel_initializer=small(1)) for s in (-1, 1))
        np.testing.assert_array_equal(run(heat, x), -run(other, x))

    def test_tv_normalization(self):
        x = normal(2, 3, 4).astype("float32")
        layer = layers.TVNormalization(epsilon=0.5)
        layer.build(x.shape)
        layer.s.assign([1.0, 2.0, 3.0, 4.0])
        layer.b.assign([0.0, 0.0, 1.0, 0.0])
        expected = x * [1, 2, 3, 4] / np.sqrt((x**2).sum(-1, keepdims=True) + 0.5) + [0, 0, 1, 0]
        np.testing.assert_allclose(run(layer, x), expected, rtol=1e-5)

    def test_tv_normalization_squares_in_float32(self):
        layer = layers.TVNormalization(dtype="float16")
        x = np.full((1, 4), 1e3, "float16")  # whose squares no float16 holds
        np.testing.assert_allclose(run(layer, x), 0.5, rtol=1e-3)


class TestCayley:
    def test_formula(self, float64):
        layer, x = layers.CayleyDense(0.7), normal(3, 5)
        layer.build(x.shape)
        (K,) = layer.get_weights()
        A, one = 0.35 * (K - K.T), np.eye(5)
        np.testing.assert_allclose(run(layer, x), x @ np.linalg.inv(one - A) @ (one + A), rtol=1e-9)

    def test_keeps_the_norm_for_ten_thousand_steps(self, float64):
        layer = layers.CayleyDense(0.9)
        layer.build((None, 16))
        matrix = run(layer, np.eye(16))
        x = normal(3, 16)
        y = x
        for _ in range(10_000):
            y = y @ matrix
        sizes = np.linalg.norm(y, axis=-1) / np.linalg.norm(x, axis=-1)
        np.testing.assert_allclose(sizes, 1, atol=1e-5)

    def test_is_orthogonal_in_float32_and_for_bfloat16(self):
        for dtype, tolerance in (("float32", 2e-6), ("mixed_bfloat16", 1e-2)):
            layer = layers.CayleyDense(5.0, dtype=dtype)
            matrix = run(layer, np.eye(16)).astype("float64")
            np.testing.assert_allclose(matrix @ matrix.T, np.eye(16), atol=tolerance)

    def test_spectrum_is_exact(self):
        layer = layers.CayleyDense()
        layer.build((None, 6))
        (K,) = layer.get_weights()
        found = np.sort(layer.spectrum().imag)
        np.testing.assert_allclose(found, np.sort(np.linalg.eigvals(K - K.T).imag), atol=1e-5)


class TestRefusals:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: layers.AntisymmetricDense(gamma=-1), "at least 0"),
            (lambda: layers.AntisymmetricConv2D(kernel_size=4), "odd number"),
            (lambda: layers.SymmetricDense(filters=0), "at least 1"),
            (lambda: layers.SymmetricDense(sign=2), "unknown sign 2; expected one of"),
            (lambda: layers.TVNormalization(epsilon=0), "number above 0"),
            (lambda: layers.CayleyDense(step_size=0), "number above 0"),
        ],
    )
    def test_refusals(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()
