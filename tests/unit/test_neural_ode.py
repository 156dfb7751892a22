"""NeuralODE, and odeint on symbolic tensors, with arguments, and with times of each example."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops
from scipy.integrate import solve_ivp

import keras_pde as kp
from keras_pde import integrators

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 3)).astype("float32")
TIMES = [0.0, 0.4, 1.0]


def reference(kernel, bias, times=TIMES):
    """By SciPy, `(times, batch, 3)`."""
    found = []
    for x in X.astype("float64"):
        solved = solve_ivp(
            lambda t, y: np.cos(t) * np.tanh(y @ kernel + bias),
            (times[0], times[-1]),
            x,
            t_eval=times,
            rtol=1e-10,
            atol=1e-12,
        )
        found.append(solved.y.T)
    return np.stack(found, axis=1)


class Rate(layers.Layer):
    """Not registered, and of time and state."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3, "tanh", bias_initializer="random_normal")

    def call(self, t, y):
        return ops.cos(t) * self.dense(y)


@pytest.mark.parametrize(
    "settings", [{}, {"method": "rk4", "steps": 20}, {"method": "rodas5p", "rtol": 1e-4}]
)
def test_trajectory_and_end(settings):
    rate = Rate()
    all_times = kp.layers.NeuralODE(rate, TIMES, trajectory=True, **settings)
    found = ops.convert_to_numpy(all_times(X))
    expected = reference(*(w.astype("float64") for w in rate.dense.get_weights()))
    np.testing.assert_allclose(found, np.moveaxis(expected, 0, 1), atol=1e-4)
    end = kp.layers.NeuralODE(rate, TIMES, **settings)
    np.testing.assert_allclose(ops.convert_to_numpy(end(X)), expected[-1], atol=1e-4)


def test_in_a_model_that_is_trained_and_saved(tmp_path):
    rate = keras.Sequential([layers.Dense(3, "tanh"), layers.Dropout(0.5)])
    model = keras.Sequential([keras.Input((3,)), kp.layers.NeuralODE(rate, TIMES), layers.Dense(1)])
    assert len(model.trainable_variables) == 4
    model.compile("adam", "mse")
    before = [ops.convert_to_numpy(v) for v in model.trainable_variables]
    model.fit(X, X[:, :1], verbose=0)
    for old, new in zip(before, model.trainable_variables, strict=True):
        assert np.any(old != ops.convert_to_numpy(new))
    model.save(tmp_path / "ode.keras")
    again = keras.models.load_model(tmp_path / "ode.keras")
    np.testing.assert_allclose(again.predict(X, verbose=0), model.predict(X, verbose=0), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": lambda y: y}, "expected a Keras layer"),
        ({"times": [0.0]}, "at least two"),
        ({"times": [0.0, 1.0, 0.5]}, "increasing or all decreasing"),
        ({"method": "verlet"}, "unknown method 'verlet'"),
        ({"method": "rk4"}, "cannot estimate its error"),
        ({"rtol": -1}, "rtol"),
        ({"max_steps": 0}, "max_steps"),
        ({"trajectory": "yes"}, "trajectory"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        kp.layers.NeuralODE(**{"rate": layers.Dense(3), "times": TIMES, **arguments})


def test_a_rate_that_changes_the_shape_is_refused():
    with pytest.raises(ValueError, match=r"maps \(3,\) to \(2,\)"):
        kp.layers.NeuralODE(layers.Dense(2), TIMES)(X)


# odeint


class Holder:
    def __init__(self):
        self.rate = layers.Dense(3, "tanh")
        self.rate.build((None, 3))

    def slope(self, t, y):
        return self.rate(y)


def symbolic(func, **settings):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, kp.odeint(func, inputs, TIMES, **settings)[-1])
    assert model.output_shape == (None, 3)
    return model


def test_on_a_symbolic_tensor_it_is_a_layer():
    holder = Holder()
    dense = holder.rate
    scale = keras.Variable(2.0)
    cases = {
        (lambda t, y: -y): 0,
        (lambda t, y: dense(y)): 2,
        (lambda t, y: scale * dense(y)): 3,
        holder.slope: 2,
        (lambda t, y: holder.slope(t, y)): 2,
    }
    for func, count in cases.items():
        model = symbolic(func)
        assert len(model.trainable_variables) == count
        expected = kp.odeint(func, ops.convert_to_tensor(X), TIMES)[-1]
        found = model.predict(X, verbose=0)
        np.testing.assert_allclose(found, ops.convert_to_numpy(expected), atol=1e-5)
    model = symbolic(lambda t, y, a: -a * y, args=(2.0,))
    np.testing.assert_allclose(model.predict(X, verbose=0), X * np.exp(-2.0), rtol=1e-4)


def test_weights_in_arguments_partials_and_defaults():
    dense = Holder().rate

    def given(t, y, rate):
        return rate(y)

    def by_default(t, y, rate=dense):
        return rate(y)

    for func, settings in (
        (given, {"args": (dense,)}),
        (functools.partial(given, rate=dense), {}),
        (by_default, {}),
    ):
        assert len(symbolic(func, **settings).trainable_variables) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: kp.odeint(lambda t, y: -y, x, TIMES, return_stats=True), "return_stats"),
        (lambda x: kp.odeint(lambda t, y, u: -y * u, x, TIMES, args=(x,)), "y0 alone and whole"),
        (lambda x: kp.odeint(lambda t, y: -y, X[:, 0], x[0]), "y0 alone and whole"),
        (lambda x: kp.odeint(lambda t, y: -y, keras.Input((None, 3)), TIMES), "but the batch"),
        (lambda x: kp.odeint(lambda t, y, a: -a * y, x, TIMES, args=2.0), "expected a tuple"),
    ],
)
def test_what_a_symbolic_solution_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make(keras.Input((3,)))


def test_weights_that_cannot_be_found_are_refused():
    deep = [[[[[[Holder()]]]]]]
    with pytest.raises(ValueError, match=r"uses the weights .*NeuralODE"):
        symbolic(lambda t, y: deep[0][0][0][0][0][0].slope(t, y))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        own = tf.Variable(2.0, name="own")
        with pytest.raises(ValueError, match=r"uses the weights .*own"):
            symbolic(lambda t, y: own * y)


def test_masks_reach_the_rate():
    class Centred(layers.Layer):
        def call(self, y, mask=None):
            weight = 1.0 if mask is None else ops.cast(mask, y.dtype)[..., None]
            total = ops.sum(weight * ops.ones_like(y), 1, keepdims=True)
            return y - ops.sum(weight * y, 1, keepdims=True) / total

    x = RNG.normal(size=(2, 5, 3)).astype("float32")
    x[:, 3:] = 0
    layer = kp.layers.NeuralODE(Centred(), TIMES)
    found = layer(layers.Masking()(ops.convert_to_tensor(x)))
    short = layer(ops.convert_to_tensor(x[:, :3]))
    np.testing.assert_allclose(*map(ops.convert_to_numpy, (found[:, :3], short)), atol=1e-5)


def test_a_scheme_of_ones_own_is_saved(tmp_path):
    scheme = integrators.RungeKutta("mine", 2, [[], [1]], ["1/2", "1/2"])
    model = keras.Sequential(
        [keras.Input((3,)), kp.layers.NeuralODE(layers.Dense(3), TIMES, method=scheme, steps=2)]
    )
    model.save(tmp_path / "own.keras")
    again = keras.models.load_model(tmp_path / "own.keras")
    np.testing.assert_allclose(again.predict(X, verbose=0), model.predict(X, verbose=0), rtol=1e-6)


def test_arguments_and_names_of_scipy():
    for method in ("RK45", "RK23", "dopri5"):
        y = kp.odeint(lambda t, y, a, b: b - a * y, X, TIMES, method, args=(2.0, 0.5))
        expected = 0.25 + (X - 0.25) * np.exp(-2.0)
        np.testing.assert_allclose(ops.convert_to_numpy(y[-1]), expected, atol=1e-4)
    for unknown in ("LSODA", "verlet"):
        with pytest.raises(ValueError, match=r"unknown method .*'dopri5'.*'RK45'"):
            kp.odeint(lambda t, y: -y, X, TIMES, unknown)


@pytest.mark.parametrize("settings", [{}, {"method": "rk4", "steps": 30}, {"method": "rodas5p"}])
def test_times_of_each_example(settings):
    """y' = t y: y = y0 exp((t^2 - t0^2) / 2), forwards and backwards."""
    times = np.array([[0, 1, -1, 2], [1, 0.5, 0, 2.1], [1.5, -0.5, 1, 2.2]], "float32")
    found = ops.convert_to_numpy(kp.odeint(lambda t, y: t * y, X, times, **settings))
    expected = X * np.exp((times**2 - times[:1] ** 2) / 2)[..., None]
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    for shape in (times[:, :3], times[..., None]):
        with pytest.raises(ValueError, match="Received t of shape"):
            kp.odeint(lambda t, y: t * y, X, shape, **settings)
    with pytest.raises(ValueError, match="increasing"):
        kp.odeint(lambda t, y: t * y, X, times[[0, 2, 1]], **settings)
    with pytest.raises(ValueError, match=r"\(T,\) of one system"):
        kp.odeint(lambda t, y: t * y, X, times, batched=False, **settings)


def test_examples_that_do_not_arrive_are_named_with_their_time():
    times = np.array([[0.0, 0.0], [1.0, 50.0]], "float32")
    with pytest.raises(ValueError, match=r"1 of 2 examples do not arrive at t = 50: 1 \(at"):
        kp.odeint(lambda t, y: -5 * y, X[:2], times, max_steps=40)
