"""The stability report against published limits, and against what the layers do."""

import json
import math

import keras
import numpy as np
import pytest
from integrator_cases import LIMITS
from keras import ops

from keras_pde import analysis, integrators, layers
from keras_pde.analysis import stability_report
from keras_pde.analysis.stability_report import largest_step

LINE = np.linspace(0, 1, 65)


def dense(kind, kernels, **kwargs):
    """A block of dense maps with the same kernel at every depth; one kernel an equation."""
    kwargs = {"horizon": 1.0, "num_basis": 1, "use_bias": False, "activation": "linear", **kwargs}
    block = kind(kernel_initializer="zeros", **kwargs)
    block.build((None, kernels[0].shape[0] * (2 if kind is layers.HamiltonianBlock else 1)))
    for rate, kernel in zip(block.rates, kernels, strict=False):
        rate.stacks[0].assign(kernel[None].astype("float32"))
    return block


def rotation(w):
    """K with || K - K^T || = w."""
    return np.array([[0, w / 2], [-w / 2, 0]])


def diagonal(*values):
    return np.diag(np.array(values, "float64"))


def only(layer):
    (row,) = stability_report(layer).rows
    return row


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("w", [1.0, 250.0])
def test_largest_steps_are_those_of_the_literature(name, w):
    scheme = integrators.get(name)
    found = [largest_step(scheme, w * axis * LINE) * w for axis in (1j, -1)]
    # Growth of less than 1e-9 counts as rounding.
    assert found == pytest.approx(LIMITS[name], rel=1e-3)
    assert largest_step(scheme, 0 * LINE) == math.inf


@pytest.mark.parametrize("theta", [(1.0, 1.0), (2.0, 2.0), (0.2, 2.0)])
def test_circulant_network(theta):
    """y' = tanh(K y) circulant; Euler needs h <= 3 s / (9/4 s^2 + 3/4 d^2)."""
    a, b = theta
    K = np.array([[-a - b, a, b], [b, -a - b, a], [a, b, -a - b]])
    s, d = a + b, a - b
    found = largest_step(integrators.get("euler"), np.linalg.eigvals(K))
    assert found == pytest.approx(3 * s / (9 / 4 * s**2 + 3 / 4 * d**2), rel=1e-6)


class TestAntisymmetric:
    def test_no_euler_step_is_stable(self):
        for scheme in ("euler", "heun"):
            block = dense(layers.AntisymmetricBlock, [rotation(1.0)], steps=5, scheme=scheme)
            row = only(block)
            assert (row.limit, row.suggested_steps) == (0, None)
            assert not row.stable
            assert "none" in stability_report(block).table()

    @pytest.mark.parametrize(("scheme", "limit"), [("rk4", 8**0.5), ("ssp_rk3", 3**0.5)])
    def test_runge_kutta_up_to_the_limit(self, scheme, limit):
        for factor in (0.995, 1.005):
            K = rotation(10 * limit * factor)
            row = only(dense(layers.AntisymmetricBlock, [K], steps=10, scheme=scheme))
            assert row.stable == (factor < 1)
            assert row.bound == pytest.approx(10 * limit * factor, rel=1e-5)
            assert row.suggested_steps == (None if row.stable else 11)
            # What it suggests is enough, and one less is not.
            if not row.stable:
                more = dense(layers.AntisymmetricBlock, [K], steps=11, scheme=scheme)
                assert only(more).stable

    def test_damping_for_euler(self):
        # The example of the AntisymmetricRNN paper, as one block of 50 steps.
        def block(gamma):
            K, shape = rotation(2.0), {"steps": 50, "horizon": 5.0}
            return dense(layers.AntisymmetricBlock, [K], scheme="euler", gamma=gamma, **shape)

        row = only(block(0.15))
        assert not row.stable
        assert row.growth == pytest.approx(1.0051, abs=5e-5)
        assert row.growth**50 == pytest.approx(1.29, abs=5e-3)
        assert row.suggested_gamma == pytest.approx(0.2021, abs=1e-4)
        assert only(block(row.suggested_gamma * 1.0001)).stable
        assert not only(block(row.suggested_gamma * 0.99)).stable

    def test_no_damping_helps_euler_beyond_a_radian(self):
        row = only(dense(layers.AntisymmetricBlock, [rotation(6.0)], steps=5, scheme="euler"))
        assert row.suggested_gamma is None and row.suggestion == "another scheme"

    def test_midpoint_network(self):
        settings = {"steps": 5, "scheme": "two_step_midpoint"}
        assert only(dense(layers.AntisymmetricBlock, [rotation(4.9)], **settings)).stable
        with pytest.warns(UserWarning, match="can grow"):
            damped = dense(layers.AntisymmetricBlock, [rotation(4.9)], gamma=0.1, **settings)
        assert not only(damped).stable


@pytest.mark.parametrize(
    ("kind", "kernels", "scheme", "limit"),
    [
        (layers.ParabolicBlock, [diagonal(2, 3)], "euler", 2 / 9),
        (layers.ParabolicBlock, [diagonal(2, 3)], "rk4", 2.7853 / 9),
        (layers.SecondOrderBlock, [diagonal(2, 3)], "symplectic_euler", 2 / 3),
        (layers.SecondOrderBlock, [diagonal(2, 3)], "verlet", 2 / 3),
        (layers.HamiltonianBlock, [diagonal(2, 3), diagonal(1, 4)], "symplectic_euler", 2 / 12),
    ],
)
def test_limits_of_the_blocks_and_what_they_do(kind, kernels, scheme, limit):
    """Beyond the limit the linear block itself explodes; below, it does not."""
    x = np.random.default_rng(0).normal(size=(1, 4 if kind is layers.HamiltonianBlock else 2))
    for factor, stable in ((0.97, True), (1.0275, False)):
        settings = {"scheme": scheme, "steps": 200, "horizon": 200 * limit * factor}
        block = dense(kind, kernels, **settings)
        row = only(block)
        assert row.limit == pytest.approx(limit, rel=1e-4)
        assert row.stable is stable
        model = keras.Sequential([keras.Input(x.shape[1:]), block])
        assert bool(np.abs(model.predict(x, verbose=0)).max() < 100) is stable
        assert row.suggested_steps == (None if stable else 206)


def test_a_negative_scale_is_seen():
    for kind in (layers.ParabolicBlock, layers.HamiltonianBlock, layers.SecondOrderBlock):
        block = kind(4, normalization="tv", kernel_initializer="orthogonal", horizon=0.01)
        block.build((None, 4))
        assert only(block).stable
        (scales,) = (s for s in block.rates[0].stacks if "scale" in s.path)
        values = ops.convert_to_numpy(scales).copy()
        values[2, 0] = -1
        scales.assign(values)
        row = only(block)
        assert not row.stable and row.limit == 0


def test_a_layer_of_cayley_is_stable_with_any_step(tmp_path):
    layer = layers.CayleyDense(step_size=50.0)
    layer.build((None, 6))
    row = only(layer)
    assert row.stable and row.limit == math.inf
    assert layer.scheme.amplification(2.0) == math.inf
    json.loads(json.dumps(stability_report(layer).to_dict(), allow_nan=False))
    stability_report(layer).plot(tmp_path / "report.png")


class Cell(keras.layers.Layer):
    """A recurrent cell that can be judged."""

    scheme, step_size, state_size, gamma = integrators.get("euler"), 0.5, 3, 0.0

    def build(self, input_shape):
        self.built = True

    def call(self, inputs, states):
        return states[0] + inputs, [states[0] + inputs]

    def spectrum(self):
        return 1j * LINE


@pytest.fixture
def model():
    inputs = keras.Input((7, 3))
    x = keras.layers.RNN(Cell(name="cell"))(inputs)
    inner = keras.Sequential([keras.Input((3,)), layers.ParabolicBlock(9, name="heat", seed=1)])
    x = layers.AntisymmetricBlock(9, name="turning", seed=1)(inner(x))
    return keras.Model(inputs, keras.layers.Dense(2)(x), name="mixed")


class TestReport:
    def test_finds_cells_and_nested_layers(self, model):
        report = stability_report(model)
        assert {row.name: row.stable for row in report.rows} == {
            "cell": False,
            "heat": True,
            "turning": True,
        }
        assert not report.stable
        cell = next(row for row in report.rows if row.name == "cell")
        # It has no steps to add, but a damping.
        assert cell.suggested_steps is None
        assert cell.suggested_gamma == pytest.approx((1 - math.sqrt(0.75)) / 0.5)

    def test_table_and_dict(self, model):
        report = stability_report(model)
        text, values = str(report), json.loads(json.dumps(report.to_dict()))
        for row in report.rows:
            (line,) = (line for line in text.splitlines() if line.startswith(row.name))
            assert row.kind in line and row.scheme in line
            assert ("unstable" in line) == (not row.stable)
        assert "frozen" in text and "no bound of gradients" in text
        assert [layer["name"] for layer in values["layers"]] == [row.name for row in report.rows]
        assert values["stable"] is False

    def test_plot(self, model, tmp_path):
        import matplotlib.pyplot as plt

        before = plt.get_fignums()
        stability_report(model).plot(tmp_path / "report.png")
        assert (tmp_path / "report.png").stat().st_size > 5000
        assert plt.get_fignums() == before

    def test_plot_shows_the_region_and_the_spectra(self, model):
        from matplotlib.figure import Figure

        from keras_pde.analysis import stability_plot

        axes = Figure().subplots()
        row = next(row for row in stability_report(model).rows if row.name == "cell")
        stability_plot.panel(axes, [row])
        (points,) = (line for line in axes.lines if line.get_label() == "cell")
        assert np.max(points.get_ydata()) == pytest.approx(0.5)
        boundary = np.concatenate(axes.collections[1].get_paths()[0].to_polygons())
        # The circle of Euler's method around -1.
        radius = np.hypot(boundary[:, 0] + 1, boundary[:, 1])
        np.testing.assert_allclose(radius, 1, atol=0.02)

    def test_refusals(self):
        plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)], name="plain")
        with pytest.raises(ValueError, match="'plain', in which no layer has a stability"):
            analysis.stability_report(plain)
        with pytest.raises(ValueError, match="expected a layer that is built"):
            stability_report(layers.HamiltonianBlock(3))


def around(rate, **kwargs):
    """A model of a continuous block, and inputs."""
    inputs = keras.Input((3, 2))
    block = layers.ContinuousBlock(rate, 4, num_basis=2, **kwargs)
    model = keras.Model(inputs, block(inputs))
    return model, np.random.default_rng(0).normal(size=(5, 3, 2)).astype("float32")


@pytest.mark.parametrize(("w", "stable"), [(2.8, True), (2.9, False)])
def test_a_continuous_block_is_judged_on_data(w, stable):
    """A rotation at every depth and place: eigenvalues +- i w, of which rk4 bears 2.828 a step."""
    model, x = around(keras.layers.Dense(2, use_bias=False), scheme="rk4", horizon=4.0)
    turn = np.array([[0, w], [-w, 0]], "float32")
    model.layers[1].set_weights([np.stack([turn, turn])])
    report = stability_report(model, x)
    (row,) = report.rows
    assert row.on_data and report.stable == row.stable == stable
    np.testing.assert_allclose(np.sort(np.unique(np.round(row.spectrum.imag, 4))), [-w, w])
    np.testing.assert_allclose(row.spectrum.real, 0, atol=1e-4)
    assert row.limit == pytest.approx(2.828 / w, rel=1e-3)
    assert "an estimate" in report.table()
    if not stable:
        assert row.suggested_steps == 5


def test_the_spectrum_is_that_of_a_jacobian_by_differences():
    rate = keras.layers.Dense(2, "tanh", bias_initializer="normal")
    model, x = around(rate, scheme="euler", basis="constant")
    kernels, biases = model.layers[1].get_weights()
    y, h, expected = x.astype("float64"), 0.25, []
    for n in range(4):
        kernel, bias = kernels[n // 2].astype("float64"), biases[n // 2]
        slope = np.tanh(y @ kernel + bias)
        for place in (1 - slope**2).reshape(-1, 2):
            expected += list(np.linalg.eigvals(kernel * place))
        y = y + h * slope
    (row,) = stability_report(model, x).rows
    np.testing.assert_allclose(
        np.sort_complex(row.spectrum), np.sort_complex(np.array(expected)), atol=1e-4
    )


def test_blocks_that_are_not_judged_are_named():
    model, x = around(keras.layers.Dense(2), scheme="euler")
    with pytest.raises(ValueError, match="expected inputs x"):
        stability_report(model)
    inputs = keras.Input((3, 2))
    stable = layers.AntisymmetricBlock(4, horizon=0.1)
    both = keras.Model(inputs, model(stable(inputs)))
    report = stability_report(both)
    assert report.not_judged == (model.layers[1].name,) and len(report.rows) == 1
    assert f"Not judged without inputs x: {model.layers[1].name}" in report.table()
    assert len(stability_report(both, x).rows) == 2
    wide, x = around(keras.layers.Dense(2), scheme="euler")
    with pytest.raises(ValueError, match="2000 entries; expected at most 1024"):
        stability_report(wide.layers[1], np.zeros((1, 1000, 2), "float32"))
