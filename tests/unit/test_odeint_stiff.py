"""rodas5p: its order and stability, stiff problems against SciPy's, gradients."""

import keras
import numpy as np
import pytest
from keras import ops
from odeint_cases import compiled, growing, solve
from scipy.integrate import solve_ivp

from keras_pde import autodiff
from keras_pde.integrators.rosenbrock import RODAS5P
from keras_pde.odeint import implicit, odeint, recorders


def test_order_five(float64):
    """Of equal steps of a problem that depends on time and is not linear: y = 1 / (1 + sin t)."""

    def field(t, y):
        return -ops.cos(t) * y * y

    step = implicit.Implicit(RODAS5P).attempt
    errors = []
    for count in (8, 16, 32):
        t, y = np.zeros((1, 1)), ops.ones((1, 1))
        for _ in range(count):
            y, _, usable, *_ = step(
                field, ops.convert_to_tensor(t), y, field(t, y), ops.full((1, 1), 1 / count)
            )
            assert bool(usable)
            t = t + 1 / count
        errors.append(abs(float(y[0, 0]) - 1 / (1 + np.sin(1))))
    assert -np.polyfit(np.log([8, 16, 32]), np.log(errors), 1)[0] == pytest.approx(5, abs=0.3)


def test_is_l_stable():
    """No mode with a negative real part grows, and those that are far away vanish at once."""
    angles = np.linspace(np.pi / 2, np.pi, 31)
    sizes = np.logspace(-2, 8, 41)[:, None]
    assert RODAS5P.amplification(sizes * np.exp(1j * angles)).max() <= 1 + 1e-8
    assert RODAS5P.amplification(np.array([-1e8, -1e8j])).max() < 1e-6
    # As published.
    nodes = [0.0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664]
    np.testing.assert_allclose(RODAS5P.nodes, [*nodes, 1, 1, 1], atol=1e-12)
    weights = [0.21193756319429014, -0.42387512638858027, -0.3384627126235924]
    weights += [1.8046452872882734, 2.325825639765069, 0, 0, 0]
    np.testing.assert_allclose(RODAS5P.time_weights, weights, atol=1e-12)


def test_dense_output_is_of_order_four(float64):
    """Of a problem that is not stiff; it ends where the step ends."""
    method, begin, x = implicit.Implicit(RODAS5P), 0.3, ops.linspace(0.0, 1.0, 9)[:, None, None]

    def error(h):
        y, t = ops.full((1, 1), np.exp(np.sin(begin))), ops.full((1, 1), begin)
        length = ops.full((1, 1), h)
        new, _, _, *parts = method.attempt(growing, t, y, growing(t, y), length)
        polynomial = method.polynomial(y, new, length, *parts)
        values = ops.convert_to_numpy(recorders.between(y, polynomial, x))
        np.testing.assert_allclose(values[-1], ops.convert_to_numpy(new), rtol=1e-12)
        exact = np.exp(np.sin(begin + ops.convert_to_numpy(x) * h))
        return abs(values - exact).max()

    assert np.log2(error(0.2) / error(0.1)) == pytest.approx(5, abs=0.4)


def robertson(xp, y):
    slow, back, fast = 0.04 * y[0], 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
    return xp.stack([back - slow, slow - back - fast, fast])


def van_der_pol(xp, y):
    return xp.stack([y[1], 100 * (1 - y[0] ** 2) * y[1] - y[0]])


@pytest.mark.parametrize(
    ("rule", "y0", "end"),
    [(robertson, [1.0, 0, 0], 1e4), (van_der_pol, [2.0, 0], 150.0)],
    ids=["robertson", "van_der_pol"],
)
def test_stiff_problems_are_scipys(rule, y0, end, float64):
    t = np.array([0, end / 50, end / 2, end])
    exact = solve_ivp(
        lambda t, y: rule(np, y), (0, end), y0, "Radau", t_eval=t, rtol=1e-10, atol=1e-13
    ).y.T
    options = {"method": "rodas5p", "rtol": 1e-6, "atol": 1e-9, "max_steps": 600}
    y, statistics = solve(lambda t, y: rule(ops, y), np.array(y0), t, **options)
    np.testing.assert_allclose(y, exact, rtol=2e-4, atol=1e-9)
    # SciPy's explicit method needs far more steps for the same time.
    explicit = solve_ivp(lambda t, y: rule(np, y), (0, end / 500), y0, "RK45", rtol=1e-6, atol=1e-9)
    assert 10 * statistics.accepted < 500 * len(explicit.t)
    assert statistics.evaluations == 3 + 9 * (statistics.accepted + statistics.rejected)


def test_examples_have_steps_of_their_own_and_a_time(float64):
    """y' = -s (y - cos t) - sin t, whose solution is cos t for all s; an example as if alone."""
    stiffness = np.array([[1.0], [1e3], [1e6]])

    def field(s):
        return lambda t, y: -s * (y - ops.cos(t)) - ops.sin(t)

    t = np.array([0.0, 0.7, 3.0])
    options = {"method": "rodas5p", "rtol": 1e-6, "atol": 1e-7}
    y, statistics = solve(field(stiffness), np.ones((3, 1)), t, **options)
    np.testing.assert_allclose(y[..., 0], np.cos(t)[:, None] + np.zeros(3), atol=2e-6)
    assert statistics.accepted.max() < 100
    for i in range(3):
        alone, steps = solve(field(stiffness[i : i + 1]), np.ones((1, 1)), t, **options)
        np.testing.assert_allclose(alone[:, 0], y[:, i], atol=1e-12)
        assert steps.accepted[0] == statistics.accepted[i]


def test_gradients_are_finite_differences(float64):
    """To y0, t and weights; nearly, since the lengths of steps are constants to the gradient."""
    rng = np.random.default_rng(0)
    point = [rng.normal(size=(2, 3)), np.array([0.0, 0.4, 1.1]), rng.normal(size=(3, 3))]

    def loss(point):
        y0, t, weights = point
        y = odeint(
            lambda t, y: ops.tanh(y @ weights) * ops.cos(t), y0, t, "rodas5p", rtol=1e-9, atol=1e-9
        )
        return ops.sum(ops.sin(y))

    tensors = [ops.convert_to_tensor(p) for p in point]
    value = compiled(loss)
    gradient = compiled(lambda point: autodiff.value_and_grad(loss, point)[1])(tensors)
    for i, part in enumerate(gradient):
        direction = rng.normal(size=point[i].shape)
        ends = []
        for sign in (1, -1):
            moved = [p + sign * 1e-5 * direction if j == i else p for j, p in enumerate(point)]
            ends.append(float(value([ops.convert_to_tensor(p) for p in moved])))
        expected = (ends[0] - ends[1]) / 2e-5
        received = float(np.sum(ops.convert_to_numpy(part) * direction))
        np.testing.assert_allclose(received, expected, rtol=1e-6)


def test_a_layer_trains_through_it():
    rate = keras.Sequential([keras.layers.Dense(3, "tanh"), keras.layers.Dense(2)])
    rate.build((None, 2))

    class Flow(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.rate = rate

        def call(self, x):
            return odeint(lambda t, y: self.rate(y) - 50 * y, x, [0.0, 1.0], "rodas5p", rtol=1e-3)[
                -1
            ]

        def compute_output_shape(self, shape):
            return shape

    model = keras.Sequential([keras.Input((2,)), Flow(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    x = np.random.default_rng(0).normal(size=(16, 2)).astype("float32")
    before = [np.array(w) for w in rate.get_weights()]
    losses = model.fit(x, x[:, :1], epochs=3, batch_size=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert all((a != b).any() for a, b in zip(before[::2], rate.get_weights()[::2], strict=True))


def test_equal_steps_are_refused():
    with pytest.raises(ValueError, match=r"'rodas5p' with steps=3.*it chooses its steps"):
        odeint(growing, np.ones((1, 1), "float32"), [0.0, 1.0], "rodas5p", steps=3)


def test_a_fast_reversible_reaction_is_not_singular():
    """In float32, 1 + gamma h k is gamma h k."""

    def reaction(t, y):
        return ops.stack([1e8 * (y[1] - y[0]), 1e8 * (y[0] - y[1])])

    y = odeint(reaction, np.array([1.0, 0.0], "float32"), [0.0, 10.0], "rodas5p")
    np.testing.assert_allclose(ops.convert_to_numpy(y)[-1], [0.5, 0.5], atol=1e-3)
