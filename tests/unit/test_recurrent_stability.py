"""The recurrent cells: their spectra, the limits of their steps, and gradients over time."""

import contextlib
import warnings

import keras
import numpy as np
import pytest
from keras import ops
from recurrent_cases import M, N, close, compiled, make, one_step, sequences

from keras_pde import autodiff
from keras_pde.analysis import stability_report
from keras_pde.layers.recurrent import (
    AntisymmetricRNN,
    AntisymmetricRNNCell,
    CoRNN,
    CoRNNCell,
    LipschitzRNN,
    LipschitzRNNCell,
)


def jacobian(layer):
    """Of one step at h = 0 and u = 0; column j belongs to unit j of the state."""
    size = sum(layer.state_size)
    h, x = 1e-3 * np.eye(size, dtype="float32"), np.zeros((size, M), "float32")
    return (one_step(layer, h, x) - one_step(layer, -h, x)).T / 2e-3


@pytest.mark.parametrize("name", ["antisymmetric", "lipschitz", "oscillators"])
def test_spectrum_is_that_of_the_step_at_the_origin(name):
    layer = make(name, use_bias=False)
    cell = layer.cell
    z = cell.step_size * cell.spectrum()
    R = np.polynomial.polynomial.polyval(z, [float(c) for c in cell.scheme.stability])
    measured = np.linalg.eigvals(jacobian(layer))
    assert len(z) == len(measured)
    for value in R:
        assert np.abs(measured - value).min() < 1e-4
    assert cell.scheme.amplification(z).max() == pytest.approx(np.abs(measured).max(), abs=1e-4)


def test_antisymmetric_spectrum_is_imaginary_minus_gamma():
    for name in ("antisymmetric", "gated"):
        spectrum = make(name).cell.spectrum()
        assert spectrum.dtype == "complex128"
        np.testing.assert_array_equal(spectrum.real, -0.3)
        close(np.sort(spectrum.imag), np.sort(-spectrum.imag))
        assert np.abs(spectrum.imag).max() > 1
    lipschitz = make("lipschitz", beta=1.0).cell.spectrum()
    np.testing.assert_allclose(lipschitz.real, -0.4, atol=1e-6)
    assert make("lipschitz", beta=0.5, gamma=0.0).cell.spectrum().real.max() > 0.1


def test_slopes_of_the_gated_cell_are_in_the_documented_range():
    layer = make("gated", scheme="euler", step_size=1.0)
    R = ops.convert_to_numpy(layer.cell.matrices()[0])
    turned, u, u_z = np.meshgrid(*3 * [np.linspace(-8, 8, 33)])
    h = np.tile(turned.reshape(-1, 1), (1, N)).astype("float32") @ np.linalg.inv(R)
    u = np.concatenate([np.tile(part.reshape(-1, 1), (1, N)) for part in (u, u_z)], axis=1)
    h, u = (ops.convert_to_tensor(part.astype("float32")) for part in (h, u))
    # One unit of R h along the direction whose image is all ones.
    along = ops.convert_to_tensor(np.tile(np.ones(N) @ np.linalg.inv(R), (len(h), 1)), "float32")
    _, D = autodiff.jvp(lambda h: layer.cell.slope(h, u, None, R), h, along)
    D = ops.convert_to_numpy(D)
    assert -0.25 - 1e-6 < D.min() < -0.24 and 0.99 < D.max() < 1 + 1e-6


def pair(gamma, **kwargs):
    """The cell of the published demonstration: eigenvalues 2i and -2i, step 0.1."""
    two = keras.initializers.Constant(2.0)
    kwargs = {"scheme": "euler", **kwargs}
    cell = AntisymmetricRNNCell(2, 0.1, gamma, recurrent_initializer=two, **kwargs)
    cell.build((None, 1))
    return cell


def test_published_demonstration_is_flagged():
    with pytest.warns(
        UserWarning, match=r"1\.0051, the equation by 1\.0000\. Raise gamma to 0\.2021"
    ):
        cell = pair(0.15)
    growth = cell.scheme.amplification(0.1 * cell.spectrum()).max()
    assert growth == pytest.approx(1.0051, abs=1e-4)
    assert growth**50 == pytest.approx(1.29, abs=0.01)
    threshold = (1 - np.sqrt(1 - 0.2**2)) / 0.1
    with pytest.warns(UserWarning, match="Raise gamma"):
        pair(threshold - 1e-4)
    # Warnings are errors here: neither of these warns.
    pair(threshold + 1e-6)
    pair(0.0, scheme="rk4")


def test_defaults_do_not_warn():
    for layer in (LipschitzRNN(48), LipschitzRNN(5), AntisymmetricRNN(32), CoRNN(24)):
        layer.build((None, None, 1))
        assert stability_report(layer).stable


@pytest.mark.parametrize("scheme", ["euler", "heun"])
@pytest.mark.parametrize("kind", [LipschitzRNN, AntisymmetricRNN])
def test_the_gamma_that_is_suggested_is_the_least(kind, scheme):
    more = {"beta": 0.75} if kind is LipschitzRNN else {}
    layer = kind(24, 0.1, gamma=0.0, scheme=scheme, **more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer.build((None, None, 1))
    (row,) = stability_report(layer).rows
    assert not row.stable and row.suggested_gamma > 0
    for factor, stable in ((1.001, True), (0.99, False)):
        layer.cell.gamma = factor * row.suggested_gamma
        assert stability_report(layer).stable == stable


def test_other_warnings():
    with pytest.warns(UserWarning, match="the equation by 1.0000. Lower step_size, or take"):
        LipschitzRNNCell(4, step_size=0.5, beta=1).build((None, M))
    with pytest.warns(UserWarning, match="Lower step_size or frequency"):
        CoRNNCell(4, step_size=2.0, recurrent_initializer="zeros", damping=0.1).build((None, M))


def test_largest_step_of_an_oscillator():
    h, damping = 0.5, 0.8
    largest = (4 + 2 * h * damping) / h**2

    def moduli(frequency):
        cell = CoRNNCell(1, h, frequency, damping, recurrent_initializer="zeros")
        with pytest.warns() if frequency > largest else contextlib.nullcontext():
            cell.build((None, 1))
        return cell.scheme.amplification(h * cell.spectrum())

    np.testing.assert_allclose(moduli(2.0), 1 / np.sqrt(1 + h * damping), rtol=1e-6)
    assert moduli(0.99 * largest).max() < 1 < moduli(1.01 * largest).max()


def test_a_layer_that_is_built_while_it_is_traced():
    class Lazy(keras.Model):
        def __init__(self):
            super().__init__()
            self.rnn = AntisymmetricRNN(N, step_size=0.1, gamma=0.0)

        def call(self, x):
            return self.rnn(x)

    model = Lazy()
    model.compile("sgd", "mse")
    model.fit(sequences(), np.zeros((4, N)), verbose=0)
    assert model.rnn.cell.spectrum().shape == (N,)


def test_gradient_survives_a_thousand_steps():
    # With respect to the first input: through 999 steps of the state.
    x = 0.1 * sequences(batch=1, steps=1000)

    def size(layer):
        layer.build(x.shape)
        rest = ops.convert_to_tensor(x[:, 1:])

        @compiled
        def slope(first):
            return autodiff.value_and_grad(
                lambda first: ops.sum(layer(ops.concatenate([first, rest], axis=1))), first
            )[1]

        gradient = slope(ops.convert_to_tensor(x[:, :1]))
        return float(np.abs(ops.convert_to_numpy(gradient)).max())

    keras.utils.set_random_seed(0)
    antisymmetric = AntisymmetricRNN(16, step_size=0.01, gamma=0.0, scheme="heun")
    assert size(antisymmetric) > 1e-3
    assert size(keras.layers.SimpleRNN(16)) < 1e-12
