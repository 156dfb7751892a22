"""How RobustModel takes a step: precision, ways to run it, statistics, masks and passes."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers, ops
from robust_model_cases import (
    BACKEND,
    COUNT,
    EAGER,
    SHAPE,
    X,
    Y,
    arrays,
    assert_same_weights,
    cross_entropy,
    fit,
    functional,
    resume,
    robust,
    tensorflow_only,
)

from keras_pde import autodiff, geometry
from keras_pde.objectives import Adversarial, GradientPenalty, MaxGradientPenalty, Plain


@contextlib.contextmanager
def policy(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def test_mixed_float16():
    objective = Adversarial("l2", 0.1) + GradientPenalty("l2", 0.1) + MaxGradientPenalty("l2", 0.1)
    with policy("mixed_float16"):
        model = functional(dropout=0.0)  # the masks depend on the precision
    wrapper = robust(objective, model)
    reference = robust(objective, functional(dropout=0.0))
    reference.compile("sgd", cross_entropy(), **EAGER)
    wrapper.compile("sgd", cross_entropy())
    assert isinstance(wrapper.optimizer, keras.optimizers.LossScaleOptimizer)
    received, expected = (m.train_on_batch(X, Y, return_dict=True) for m in (wrapper, reference))
    for name in ("loss", *objective.names):  # unscaled
        np.testing.assert_allclose(received[name], expected[name], rtol=0.02, err_msg=name)
    before = arrays(wrapper.model)
    history = resume(wrapper, epochs=4)  # the scale starts so high that steps are skipped
    assert all(np.isfinite(v).all() for v in [*history.values(), *arrays(wrapper)])
    assert not np.array_equal(before[0], arrays(wrapper.model)[0]), "no step was taken"


def normalized():
    keras.utils.set_random_seed(1)
    x = keras.Input(SHAPE)
    y = layers.SpectralNormalization(layers.Conv2D(2, 3, activation="relu"))(x)
    return keras.Model(x, layers.SpectralNormalization(layers.Dense(3))(layers.Flatten()(y)))


@tensorflow_only
def test_weights_that_a_layer_assigns_are_trained():
    """SpectralNormalization divides its kernel in each step: as in Keras' own `fit`, to the bit."""
    plain, wrapper = normalized(), robust(Plain(), normalized())
    expected, found = (fit(m, compile_options=EAGER) for m in (plain, wrapper))
    assert found["loss"] == expected["loss"]
    assert_same_weights(wrapper.model, plain)
    averaged = robust(Adversarial("l2", 0.1), normalized(), average=0.5)
    fit(averaged, epochs=8, compile_options=EAGER)
    kernel = arrays(averaged.model)[0]
    assert np.linalg.svd(kernel.reshape(-1, 2))[1][0] == pytest.approx(1, abs=0.05)


@pytest.mark.skipif(BACKEND != "jax", reason="Keras' JAX trainer drops such updates")
def test_weights_that_a_layer_assigns_are_refused_and_kept():
    model = normalized()
    before = arrays(model)
    with pytest.raises(ValueError, match=r"assigns its trainable weights .*kernel"):
        fit(robust(Plain(), model))
    for old, new in zip(before, arrays(model), strict=True):
        np.testing.assert_array_equal(old, new)


NOISY = Adversarial("linf", 0.1, steps=2, random_start=True) + GradientPenalty(
    "l2", 0.1, fraction=0.5
)


class TestSameResult:
    """Terms, seeds and noise keep their order in each way to run the same training."""

    @pytest.fixture(scope="class")
    def reference(self):
        return self.train()

    def train(self, seed=0, dropout=0.3, **compile_options):
        wrapper = robust(NOISY, functional(dropout=dropout), seed=seed)
        return fit(wrapper, compile_options=compile_options), arrays(wrapper)

    def check(self, one, other, rtol):
        assert one[0].keys() == other[0].keys()
        for name in one[0]:
            np.testing.assert_allclose(one[0][name], other[0][name], rtol=rtol, err_msg=name)
        for a, b in zip(one[1], other[1], strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)

    def test_seeds(self):
        one, same, other = (self.train(seed, **EAGER) for seed in (0, 0, 1))
        self.check(one, same, 0)
        assert abs(one[0]["adversarial"][0] / other[0]["adversarial"][0] - 1) > 1e-5

    def test_steps_per_execution(self, reference):
        self.check(self.train(steps_per_execution=3), reference, 1e-6)

    @tensorflow_only
    def test_eager(self, reference):
        self.check(self.train(run_eagerly=True), reference, 1e-5)

    @tensorflow_only
    @pytest.mark.slow
    def test_xla(self):
        """Without dropout, whose masks are others there."""
        self.check(self.train(dropout=0.0, jit_compile=True), self.train(dropout=0.0), 1e-4)


def crafted(model, x, y, epsilon):
    """J2 images of cross-entropy, in inference mode."""

    def loss(images):
        return COUNT * cross_entropy()(y, model(images, training=False))

    gradient = autodiff.value_and_grad(loss, ops.convert_to_tensor(x))[1]
    return x + epsilon * ops.convert_to_numpy(geometry.get("l2").steepest(gradient))


def test_batch_normalization_sees_the_perturbed_batch_once():
    reference, model = functional(dropout=0.0), functional(dropout=0.0)
    penalties = GradientPenalty("l2", 0.1) + MaxGradientPenalty("l2", 0.1, at="perturbed")
    data = Adversarial("l2", 0.5, bounds=None, statistics="inference")
    wrapper = robust(data + penalties, model)
    images = crafted(reference, X, Y, 0.5)
    reference(images, training=True)
    wrapper.compile("sgd", cross_entropy(), **EAGER)
    wrapper.train_on_batch(X, Y)
    for a, b in zip(model.non_trainable_variables, reference.non_trainable_variables, strict=True):
        if "moving" in a.path:
            np.testing.assert_allclose(
                ops.convert_to_numpy(a), ops.convert_to_numpy(b), rtol=1e-5, atol=1e-6
            )


def test_metrics_see_the_perturbed_predictions():
    model = functional(dropout=0.0)
    images = crafted(model, X, Y, 0.5)
    wrapper = robust(Adversarial("l2", 0.5, bounds=None), model)
    expected = np.mean(
        ops.convert_to_numpy(functional(dropout=0.0)(images, training=True)).argmax(1) == Y
    )
    wrapper.compile("sgd", cross_entropy(), metrics=["accuracy"], **EAGER)
    logs = wrapper.train_on_batch(X, Y, return_dict=True)
    np.testing.assert_allclose(logs["accuracy"], expected)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_dropout_masks_are_the_same_in_every_pass(fraction):
    """Else the difference quotient would grow as 1/h."""
    values = {}
    for h in (1e-2, 1e-3):
        penalty = GradientPenalty(
            "l2",
            1.0,
            method="finite_difference",
            step_size=h,
            fraction=fraction,
            statistics="batch",
        )
        wrapper = robust(penalty, functional(dropout=0.5))
        wrapper.compile("sgd", cross_entropy(), **EAGER)
        values[h] = wrapper.train_on_batch(X, Y, return_dict=True)["gradient_penalty"]
    assert 0 < values[1e-3] < 5
    np.testing.assert_allclose(values[1e-3], values[1e-2], rtol=0.05)


@tensorflow_only
@pytest.mark.parametrize(
    ("objective", "passes"),
    [
        (Plain(), 1),
        (Adversarial("l2", 0.1), 1),
        (Adversarial("l2", 0.1) + MaxGradientPenalty("l2", 1.0), 3),
    ],
)
def test_crafting_does_not_pay_for_weight_gradients(objective, passes):
    """One filter gradient a convolution for the main pass; two more for double backpropagation."""
    import tensorflow as tf

    wrapper = robust(objective)
    wrapper.compile("sgd", cross_entropy(), jit_compile=False)
    wrapper.optimizer.build(wrapper.trainable_variables)
    step = tf.function(lambda x, y: wrapper.train_step((x, y)), autograph=False)
    definition = step.get_concrete_function(
        tf.TensorSpec((None, *SHAPE)), tf.TensorSpec((None,), "int32")
    )
    kinds = reachable(definition.graph)
    assert kinds.count("Conv2DBackpropFilter") <= passes
    assert kinds.count("Conv2DBackpropFilter") >= 1


def reachable(graph):
    """Types of the operations that the outputs and the assignments need."""
    needed, queue = {}, [t.op for t in graph.outputs] + list(graph.control_outputs)
    while queue:
        op = queue.pop()
        if op.name not in needed:
            needed[op.name] = op.type
            queue += [t.op for t in op.inputs] + list(op.control_inputs)
    return list(needed.values())


@tensorflow_only
@pytest.mark.parametrize("by", ["fit", "train_on_batch"])
def test_a_step_is_traced_once(by, monkeypatch):
    """Variables that the first traced step creates would make TensorFlow trace it again."""
    traces = []
    wrapper = robust(Adversarial("linf", 0.1), functional())
    metrics = ["accuracy"] if by == "fit" else []
    wrapper.compile("adam", cross_entropy(), metrics=metrics)
    step = wrapper.train_step
    monkeypatch.setattr(wrapper, "train_step", lambda data: (traces.append(by), step(data))[1])
    if by == "fit":
        wrapper.fit(X, Y, batch_size=len(X), epochs=2, verbose=0)
    else:
        wrapper.train_on_batch(X, Y)
    assert len(traces) == 1


@tensorflow_only
def test_what_cannot_be_called_with_symbols_trains():
    """The state that is created ahead is a matter of time only."""

    @keras.saving.register_keras_serializable("test")
    class ByHand(keras.metrics.Mean):
        def update_state(self, y, z, sample_weight=None):
            super().update_state(z.numpy().mean())

    eager = robust(Plain(), functional())
    eager.compile("sgd", cross_entropy(), metrics=[ByHand("own")], run_eagerly=True)
    assert np.isfinite(eager.fit(X, Y, verbose=0).history["own"]).all()

    inputs = keras.Input(batch_shape=(4, 3, 2))
    x = keras.layers.SimpleRNN(3, stateful=True)(inputs)
    stateful = robust(Plain(), keras.Model(inputs, x))
    stateful.compile("sgd", "mse")
    stateful.fit(np.ones((8, 3, 2), "float32"), np.ones((8, 3)), batch_size=4, verbose=0)

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.convolve = keras.layers.Conv2D(2, 2)

        def call(self, x):
            return keras.ops.mean(self.convolve(x), axis=(1, 2))

    model = Own()
    model(np.zeros((1, 4, 4, 1), "float32"))
    own = robust(Plain(), model)
    own.compile("adam", "mse", metrics=["mae"])
    images = np.random.default_rng(0).integers(0, 2, (8, 4, 4, 1), dtype="uint8")
    own.fit(images, np.ones((8, 2)), verbose=0)
