"""The recurrent cells: their formulas, and what Keras asks of a recurrent layer."""

import keras
import numpy as np
import pytest
from keras import ops
from recurrent_cases import (
    BACKEND,
    LAYERS,
    M,
    N,
    close,
    every_layer,
    make,
    one_step,
    run,
    sequences,
    slope,
    split,
    states,
)
from selection import some

from keras_pde import integrators
from keras_pde.layers.recurrent import (
    AntisymmetricRNN,
    AntisymmetricRNNCell,
    CoRNNCell,
    LipschitzRNN,
    LipschitzRNNCell,
)


@pytest.mark.parametrize("name", ["antisymmetric", "gated", "lipschitz"])
def test_eulers_step_is_the_formula(name):
    layer = make(name, scheme="euler")
    h, x = states(layer), sequences(steps=1)[:, 0]
    expected = h + layer.cell.step_size * slope(layer, h.T, x.T).T
    close(one_step(layer, h, x), expected)


def test_step_of_the_oscillators_is_implicit_in_the_damping():
    layer = make("oscillators")
    cell, yz, x = layer.cell, states(layer), sequences(steps=1)[:, 0]
    y, z = yz[:, :N], yz[:, N:]
    W = ops.convert_to_numpy(cell.recurrent_kernel)
    u = x @ ops.convert_to_numpy(cell.kernel) + ops.convert_to_numpy(cell.bias)
    new = one_step(layer, yz, x)
    force = np.tanh(yz @ W + u) - 1.5 * y - 0.4 * new[:, N:]
    close(new[:, N:], z + 0.1 * force)
    close(new[:, :N], y + 0.1 * new[:, N:])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("antisymmetric", N * (N - 1) // 2 + M * N + N),
        ("gated", N * (N - 1) // 2 + 2 * (M * N + N)),
        ("lipschitz", 2 * N * N + M * N + N),
        ("oscillators", 2 * N * N + M * N + N),
    ],
)
def test_weight_counts(name, count):
    assert sum(np.prod(weight.shape) for weight in make(name).trainable_weights) == count


@pytest.mark.parametrize("scheme", some(["euler", "heun", "rk4"], fast=["euler", "rk4"]))
@every_layer
def test_more_steps_converge_at_the_order_of_the_scheme(name, scheme):
    precise = BACKEND != "jax"
    if name == "oscillators" and scheme != "euler":
        pytest.skip("they have a scheme of their own, of order 1")
    if scheme == "rk4" and not precise:
        pytest.skip("float64 is off in JAX: its rounding is above the error")
    options = {} if name == "oscillators" else {"scheme": scheme}
    options["dtype"] = "float64" if precise else "float32"
    start, end, counts = make(name, **options), 1.0, [8, 16, 32]
    x, h = sequences(steps=1)[:, 0], states(start)
    exact, rk4 = h.T.astype("float64"), integrators.get("rk4")
    for _ in range(400):
        (exact,) = rk4.step(lambda stage, y: slope(start, y, x.T), (exact,), end / 400)
    errors = []
    for steps in counts:
        layer = make(name, step_size=end / steps, **options)
        y = run(layer, np.repeat(x[:, None], steps, axis=1), initial_state=split(layer, h))
        errors.append(np.abs(y - exact[:N].T).max())
    order = 1 if name == "oscillators" else integrators.get(scheme).order
    assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(order, abs=0.25)


@every_layer
def test_padded_steps_change_nothing(name):
    layer, x = make(name, return_sequences=True, return_state=True), sequences()
    mask = ops.convert_to_tensor(np.arange(7) < np.array([[7], [4], [5], [1]]))
    y, *final = run(layer, x, mask=mask)
    for row, length in enumerate([7, 4, 5, 1]):
        alone, *state = run(layer, x[row : row + 1, :length])
        close(y[row, :length], alone[0])
        close(y[row, length:], np.tile(y[row, length - 1], (7 - length, 1)))
        close([part[row] for part in final], [part[0] for part in state])


@every_layer
def test_keras_own_recurrent_layer_runs_the_cell_alike(name):
    layer, x = make(name, return_sequences=True, return_state=True), sequences()
    other = keras.layers.RNN(layer.cell, return_sequences=True, return_state=True)
    for ours, theirs in zip(run(layer, x), run(other, x), strict=True):
        close(ours, theirs)
    assert len(run(layer, x)) == 1 + len(layer.state_size)


@every_layer
def test_backwards_unrolled_bidirectional_and_stateful(name):
    x = sequences()
    layer = make(name)
    forward, backward = run(layer, x), run(layer, x[:, ::-1].copy())
    close(run(make(name, unroll=True), x), forward)
    close(run(make(name, go_backwards=True), x), backward)
    both = keras.layers.Bidirectional(layer)
    both.build(x.shape)
    both.backward_layer.set_weights(layer.get_weights())
    close(run(both, x), np.concatenate([run(both.forward_layer, x), backward], axis=1))
    stateful = make(name, batch=4, stateful=True)
    run(stateful, x[:, :3].copy())
    close(run(stateful, x[:, 3:].copy()), forward)


FITTED = [("antisymmetric", False), ("lipschitz", False), ("oscillators", False), ("gated", True)]


@pytest.mark.parametrize(("name", "jit_compile"), some(FITTED, fast=[FITTED[2], FITTED[3]]))
def test_fit_lowers_the_loss(name, jit_compile):
    if BACKEND == "jax" and not jit_compile:
        pytest.skip("every operation would be compiled alone")
    kind, arguments = LAYERS[name]
    keras.utils.set_random_seed(0)
    layer = kind(N, **arguments, dropout=0.1, recurrent_dropout=0.1, kernel_regularizer="l2")
    model = keras.Sequential([keras.Input((None, M)), layer, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.03), "mse", jit_compile=jit_compile)
    x = sequences(batch=32, steps=4)
    history = model.fit(x, x.mean((1, 2)), batch_size=16, epochs=4, verbose=0)
    assert history.history["loss"][-1] < 0.8 * history.history["loss"][0]


def test_state_is_float32_under_mixed_precision_and_products_are_not():
    # h' = tanh(3): a bfloat16 state would stop growing where a step is below its rounding.
    steps, h = 400, 1.5e-3
    layer = AntisymmetricRNN(
        2,
        step_size=h,
        gamma=0,
        recurrent_initializer="zeros",
        bias_initializer=keras.initializers.Constant(3.0),
        dtype="mixed_bfloat16",
    )
    y = layer(ops.zeros((1, steps, M)))
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    assert {keras.backend.standardize_dtype(w.dtype) for w in layer.trainable_weights} == {
        "float32"
    }
    y = ops.convert_to_numpy(ops.cast(y, "float32"))
    np.testing.assert_allclose(y, steps * h * np.tanh(3), rtol=0.01)
    x, matrix = ops.ones((1, 1)), ops.full((1, 1), 1 + 2.0**-10)
    assert float(layer.cell.product(x, matrix)[0, 0]) == 1
    assert float(make("antisymmetric").cell.product(x, matrix)[0, 0]) == 1 + 2.0**-10


def test_input_dropout_is_drawn_once_a_sequence():
    # h' = x V + b: equal inputs make equal increments if they lose the same features.
    options = {"gamma": 0, "activation": None, "return_sequences": True}
    layer = make("antisymmetric", **options, dropout=0.5)
    layer.cell.recurrent_kernel.assign(ops.zeros(layer.cell.recurrent_kernel.shape))
    x = np.repeat(sequences(steps=1), 5, axis=1)
    y, other, full = run(layer, x, training=True), run(layer, x, training=True), run(layer, x)
    close(np.diff(y, axis=1), np.tile(y[:, :1], (1, 4, 1)))
    assert np.abs(y - full).max() > 0.01 and np.abs(y - other).max() > 0.01


@pytest.mark.parametrize("name", ["antisymmetric", "oscillators"])
def test_recurrent_dropout_zeroes_what_the_matrix_sees_of_some_units(name):
    scheme = {"scheme": "euler"} if name == "antisymmetric" else {}
    layer = make(name, activation=None, use_bias=False, recurrent_dropout=0.5, **scheme)
    cell, h, x = layer.cell, states(layer), np.zeros((4, 3, M), "float32")
    start = split(layer, h)
    dropped = run(layer, x, initial_state=start, training=True)
    assert np.abs(dropped - run(layer, x, initial_state=start)).max() > 0.01
    # By hand, with the mask that the cell keeps until the layer resets it.
    mask = ops.convert_to_numpy(cell.get_recurrent_dropout_mask(start[0]))
    assert set(np.unique(mask)) == {0.0, 2.0}
    received = one_step(layer, h, x[:, 0], training=True)
    masked = h * np.tile(mask, (1, len(layer.state_size)))
    W = ops.convert_to_numpy(cell.matrices()[0])
    if name == "antisymmetric":
        close(received, h + 0.1 * masked @ W)
    else:
        force = masked @ W - 1.5 * h[:, :N] - 0.4 * h[:, N:]
        close(received[:, N:], h[:, N:] + 0.1 * force / (1 + 0.1 * 0.4))


def test_cells_in_keras_own_layers_are_saved(tmp_path):
    ralston = integrators.RungeKutta("ralston", 2, [[], ["2/3"]], ["1/4", "3/4"])
    cells = [
        AntisymmetricRNNCell(4, 0.1, 0.2, gated=True, scheme=ralston, recurrent_regularizer="l2"),
        LipschitzRNNCell(3, beta=1.0, gamma=0.5, kernel_constraint="max_norm", dropout=0.2),
        CoRNNCell(2, 0.05, frequency=3.0, damping=0.5, bias_initializer="ones"),
    ]
    model = keras.Sequential([keras.Input((None, M)), keras.layers.RNN(cells)])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(run(loaded, sequences()), run(model, sequences()))
    for cell, copy in zip(cells, loaded.layers[0].cell.cells, strict=True):
        assert copy.get_config() == cell.get_config()
    copy = loaded.layers[0].cell.cells[0]
    assert copy.scheme.nodes == ralston.nodes
    assert len(copy.losses) == 1 and float(copy.losses[0]) > 0


def test_initial_weights_have_the_published_variances():
    layer = AntisymmetricRNN(100, step_size=0.01, gamma=0.02)
    layer.build((None, None, 50))
    kernel, W = (ops.convert_to_numpy(w) for w in (layer.cell.kernel, layer.cell.recurrent_kernel))
    assert kernel.std() == pytest.approx(1 / np.sqrt(50), rel=0.05)
    assert W.std() == pytest.approx(1 / np.sqrt(100), rel=0.05)


@pytest.mark.parametrize(
    ("make_cell", "message"),
    [
        (lambda: AntisymmetricRNNCell(1, 0.1, 0), "units=1; expected an integer, at least 2"),
        (lambda: LipschitzRNNCell(2.5), "units=2.5"),
        (
            lambda: AntisymmetricRNNCell(4, 0.0, 0),
            "step_size=0.0; expected a finite number above 0",
        ),
        (lambda: AntisymmetricRNNCell(4, np.inf, 0), "step_size=inf"),
        (lambda: AntisymmetricRNNCell(4, 0.1, -1), "gamma=-1; expected a finite number at least 0"),
        (lambda: LipschitzRNNCell(4, beta=1.5), "beta=1.5; .* at least 0 and at most 1"),
        (lambda: LipschitzRNNCell(4, gamma=float("nan")), "gamma=nan"),
        (lambda: CoRNNCell(4, frequency=0), "frequency=0; expected a finite number above 0"),
        (lambda: CoRNNCell(4, damping=-1), "damping=-1"),
        (lambda: LipschitzRNN(4, scheme="verlet"), "'verlet'; expected an explicit Runge-Kutta"),
        (lambda: LipschitzRNN(4, scheme="two_step_midpoint"), "single steps of one state"),
    ],
)
def test_refusals(make_cell, message):
    with pytest.raises(ValueError, match=message):
        make_cell()
