"""Derivatives against closed forms in float64, once and again, inside compiled functions."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_pde import autodiff

BACKEND = keras.backend.backend()
pytestmark = pytest.mark.usefixtures("float64_module")

RNG = np.random.default_rng(0)
A = RNG.normal(size=(3, 4))
X = RNG.normal(size=4)
V = RNG.normal(size=4)
U = RNG.normal(size=3)


def compiled(fn):
    """`fn` as users' steps run it; on TensorFlow with an unknown first axis."""
    if BACKEND == "jax":
        import jax

        return jax.jit(fn)
    if BACKEND == "torch":
        return fn
    import tensorflow as tf

    return tf.function(fn, reduce_retracing=True)


@pytest.fixture(params=["eager", "compiled"])
def run(request):
    return compiled if request.param == "compiled" else lambda fn: fn


def close(actual, expected, rtol=1e-12):
    assert keras.backend.standardize_dtype(actual.dtype) == "float64"
    np.testing.assert_allclose(ops.convert_to_numpy(actual), expected, rtol=rtol, atol=1e-13)


def tensor(x):
    return ops.convert_to_tensor(np.asarray(x, "float64"))


def field(x):
    """tanh(A x), with Jacobian diag(1 - tanh^2) A."""
    return ops.tanh(ops.sum(tensor(A) * x, axis=1))


JACOBIAN = (1 - np.tanh(A @ X) ** 2)[:, None] * A


class TestValueAndGrad:
    def test_closed_form(self, run):
        value, gradient = run(lambda x: autodiff.value_and_grad(lambda z: ops.sum(z**3), x))(
            tensor(X)
        )
        close(value, np.sum(X**3))
        close(gradient, 3 * X**2)

    def test_aux_is_carried_along(self, run):
        def fn(z):
            return ops.sum(ops.sin(z)), {"double": 2 * z, "parts": [ops.cos(z)]}

        (value, aux), gradient = run(lambda x: autodiff.value_and_grad(fn, x, has_aux=True))(
            tensor(X)
        )
        close(value, np.sin(X).sum())
        close(gradient, np.cos(X))
        close(aux["double"], 2 * X)
        close(aux["parts"][0], np.cos(X))

    def test_nested_and_unconnected(self, run):
        point = {"a": tensor(X), "b": [tensor(V), (tensor(U),)]}

        def fn(z):
            return ops.sum(z["a"] ** 2 * z["b"][0])

        value, gradient = run(lambda x: autodiff.value_and_grad(fn, x))(point)
        close(value, np.sum(X**2 * V))
        close(gradient["a"], 2 * X * V)
        close(gradient["b"][0], X**2)
        close(gradient["b"][1][0], np.zeros(3))

    def test_constant_function(self):
        value, gradient = autodiff.value_and_grad(lambda z: tensor(5.0), tensor(X))
        close(value, 5.0)
        close(gradient, np.zeros(4))

    def test_accepts_numpy(self):
        close(autodiff.value_and_grad(lambda z: ops.sum(z**2), X)[1], 2 * X)

    def test_through_a_loop(self):
        def fn(z):
            return ops.sum(ops.fori_loop(0, 3, lambda _, u: u * u, z))

        gradient = compiled(lambda x: autodiff.value_and_grad(fn, x)[1])(tensor(X))
        close(gradient, 8 * X**7)

    def test_any_batch_size(self):
        step = compiled(lambda x: autodiff.value_and_grad(lambda z: ops.sum(z**2), x)[1])
        for count in (1, 3, 2):
            close(step(tensor(np.ones((count, 2)))), np.full((count, 2), 2.0))


class TestProducts:
    def test_vjp(self, run):
        value, product = run(lambda x: autodiff.vjp(field, x, tensor(U)))(tensor(X))
        close(value, np.tanh(A @ X))
        close(product, JACOBIAN.T @ U)

    def test_jvp(self, run):
        value, product = run(lambda x: autodiff.jvp(field, x, tensor(V)))(tensor(X))
        close(value, np.tanh(A @ X))
        close(product, JACOBIAN @ V)

    def test_jvp_of_a_nesting(self):
        _, product = autodiff.jvp(
            lambda z: z["a"] * ops.sum(z["b"]),
            {"a": tensor(X), "b": tensor(U)},
            {"a": tensor(V), "b": tensor(2 * U)},
        )
        close(product, V * U.sum() + X * 2 * U.sum())

    def test_jvp_of_a_linear_and_of_a_constant_function(self):
        close(autodiff.jvp(lambda z: 3.0 * z, tensor(X), tensor(V))[1], 3 * V)
        close(autodiff.jvp(lambda z: tensor(U), tensor(X), tensor(V))[1], np.zeros(3))

    def test_jvp_through_a_loop(self):
        def fn(z):
            return ops.fori_loop(0, 2, lambda _, u: u * u, z)

        product = compiled(lambda x: autodiff.jvp(fn, x, tensor(V))[1])(tensor(X))
        close(product, 4 * X**3 * V)

    def test_hvp(self, run):
        def fn(z):
            return ops.sum(field(z) ** 2) / 2

        gradient, product = run(lambda x: autodiff.hvp(fn, x, tensor(V)))(tensor(X))
        t = np.tanh(A @ X)
        close(gradient, JACOBIAN.T @ t)
        # d/dx of A^T (t (1 - t^2)): A^T diag((1 - 3 t^2)(1 - t^2)) A.
        close(product, A.T @ ((1 - 3 * t**2) * (1 - t**2) * (A @ V)))

    def test_hvp_couples_a_nesting(self):
        gradient, product = autodiff.hvp(
            lambda z: ops.sum(z["a"]) * ops.sum(z["b"]),
            {"a": tensor(X), "b": tensor(U)},
            {"a": tensor(V), "b": tensor(U)},
        )
        close(gradient["a"], np.full(4, U.sum()))
        close(product["a"], np.full(4, U.sum()))
        close(product["b"], np.full(3, V.sum()))

    def test_hvp_of_a_linear_function(self):
        close(autodiff.hvp(lambda z: ops.sum(2.0 * z), tensor(X), tensor(V))[1], np.zeros(4))


class TestAgain:
    """f(w, x) = sum sin(w x), with input gradient w cos(w x)."""

    W = 0.7

    @staticmethod
    def f(w):
        return lambda x: ops.sum(ops.sin(w * x))

    def test_gradient_of_a_gradient_norm(self, run):
        def penalty(w):
            return ops.sum(autodiff.value_and_grad(self.f(w), tensor(X))[1] ** 2)

        slope = run(lambda w: autodiff.value_and_grad(penalty, w)[1])(tensor(self.W))
        w, s, c = self.W, np.sin(self.W * X), np.cos(self.W * X)
        close(slope, np.sum(2 * w * c**2 - 2 * w**2 * X * c * s))

    def test_gradient_through_vjp_jvp_and_hvp(self, run):
        w, s, c = self.W, np.sin(self.W * X), np.cos(self.W * X)
        products = {
            # Jacobian of sin(w x): diag(w cos(w x)); d/dw = cos - w x sin.
            "vjp": (
                lambda w: autodiff.vjp(lambda x: ops.sin(w * x), tensor(X), tensor(V)),
                c - w * X * s,
            ),
            "jvp": (
                lambda w: autodiff.jvp(lambda x: ops.sin(w * x), tensor(X), tensor(V)),
                c - w * X * s,
            ),
            # Hessian: diag(-w^2 sin(w x)); d/dw = -2 w sin - w^2 x cos.
            "hvp": (
                lambda w: autodiff.hvp(self.f(w), tensor(X), tensor(V)),
                -2 * w * s - w**2 * X * c,
            ),
        }
        for name, (product, expected) in products.items():
            slope = run(
                lambda w, p=product: autodiff.value_and_grad(lambda u: ops.sum(p(u)[1]), w)[1]
            )(tensor(w))
            np.testing.assert_allclose(
                ops.convert_to_numpy(slope), np.sum(V * expected), rtol=1e-12, err_msg=name
            )

    def test_third_derivative(self):
        fn = lambda x: ops.sum(x**4)  # noqa: E731
        third = autodiff.value_and_grad(
            lambda x: ops.sum(autodiff.hvp(fn, x, tensor(V))[1]), tensor(X)
        )[1]
        close(third, 24 * X * V)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="about TensorFlow's tapes")
def test_an_input_gradient_does_not_pay_for_weight_gradients():
    import tensorflow as tf

    model = keras.Sequential(
        [keras.Input((6, 6, 1)), keras.layers.Conv2D(2, 3), keras.layers.Conv2D(2, 3)]
    )

    def operations(fn):
        """Types of the operations that the result needs; TensorFlow prunes the others."""
        graph = tf.function(fn).get_concrete_function(tf.zeros((2, 6, 6, 1), "float64")).graph
        needed, queue = {}, [t.op for t in graph.outputs]
        while queue:
            op = queue.pop()
            if op.name not in needed:
                needed[op.name] = op.type
                queue += [t.op for t in op.inputs]
        return list(needed.values())

    def ours(x):
        return autodiff.value_and_grad(lambda z: ops.sum(model(z) ** 2), x)[1]

    def watching(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = ops.sum(model(x) ** 2)
        return tape.gradient(value, [x, *(v.value for v in model.trainable_variables)])

    assert operations(ours).count("Conv2DBackpropInput") == 2
    assert "Conv2DBackpropFilter" not in operations(ours)
    assert operations(watching).count("Conv2DBackpropFilter") == 2, "the probe finds nothing"


class TestJacobian:
    """Of tanh(x A^T) at three rows of a batch."""

    BATCH = np.stack([X, -0.5 * X, V])

    def rows(self, x):
        # Not by `matmul`, which Keras computes in float32 on torch.
        return ops.tanh(ops.sum(x[:, None] * tensor(A), axis=-1))

    def expected(self, x=BATCH):
        return (1 - np.tanh(x @ A.T) ** 2)[:, :, None] * A

    def test_closed_form(self, run):
        value, matrix = run(lambda x: autodiff.jacobian(self.rows, x))(tensor(self.BATCH))
        close(value, np.tanh(self.BATCH @ A.T))
        close(matrix, self.expected())

    def test_outputs_that_do_not_depend_on_x(self, run):
        constant = ops.convert_to_tensor(np.ones((3, 2)))
        value, matrix = run(lambda x: autodiff.jacobian(lambda _: constant, x))(tensor(self.BATCH))
        close(value, np.ones((3, 2)))
        close(matrix, np.zeros((3, 2, 4)))

    def test_it_can_be_differentiated(self, run):
        def total(x):
            return ops.sum(ops.square(autodiff.jacobian(self.rows, x)[1]))

        gradient = run(lambda x: autodiff.value_and_grad(total, x)[1])(tensor(self.BATCH))
        t = np.tanh(self.BATCH @ A.T)
        inner = -4 * t * (1 - t**2) ** 2 * np.sum(A**2, axis=1)  # of sum_k (1 - t_k^2)^2 |a_k|^2
        close(gradient, inner @ A, rtol=1e-10)
