"""What validation, checkpoints and the end of `fit` see."""

import keras
import numpy as np
import pytest
from evaluation_weights_cases import Seen, X, Y, entropy, network, run
from keras import ops
from optimizer_cases import arrays, assert_equal

import keras_pde as kp
from keras_pde.optimizers import state

pytestmark = pytest.mark.filterwarnings("ignore:.*ends within a cycle")


class Interrupt(keras.callbacks.Callback):
    """Ctrl-C while a validation shows other weights."""

    done = False

    def on_test_batch_end(self, batch, logs=None):
        if not self.done:
            self.done = True
            raise KeyboardInterrupt


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="Keras' own fit loses the weights")
@pytest.mark.parametrize("touched", [False, True])
def test_a_training_that_was_interrupted_in_validation_goes_on(touched):
    def fit(model, *callbacks, epochs=1):
        options = {"batch_size": 10, "shuffle": False, "verbose": 0, "callbacks": list(callbacks)}
        return model.fit(X, Y, epochs=epochs, validation_data=(X, Y), **options)

    def made():
        model = network()
        optimizer = kp.optimizers.EntropySGD(1.0, 0.01, 4, 1e-8, clipnorm=1.0)
        model.compile(optimizer, "mse", run_eagerly=True)
        return model

    model, evaluation, last = made(), kp.callbacks.EvaluationWeights(), Seen()
    with pytest.raises(KeyboardInterrupt):
        fit(model, evaluation, last, Interrupt())
    shown, y = model.get_weights(), last.batches[-1]
    assert not np.array_equal(shown[0], y[0]), "the anchor is shown"
    if touched:
        model.set_weights([w + 1 for w in shown])
    evaluation.on_train_begin()
    expected = [w + 1 for w in shown] if touched else y
    assert_equal(model.get_weights(), expected, rtol=0)


def test_averages_are_shown_as_fit_keeps_them():
    """Keras' own optimizers do not constrain them."""
    layer = keras.layers.Dense(3, kernel_constraint=keras.constraints.UnitNorm())
    model, seen = network(layer), Seen()
    model.compile(keras.optimizers.SGD(0.01, use_ema=True, ema_momentum=0.9), "mse")
    callbacks = [kp.callbacks.EvaluationWeights(), seen]
    model.fit(X, Y, batch_size=10, epochs=2, verbose=0, callbacks=callbacks)
    assert_equal(seen.epochs[-1], model.get_weights(), rtol=1e-6)


def test_within_a_cycle_the_anchor_is_shown_and_training_goes_on():
    _, plain = run(entropy())
    model, shown = run(entropy(), kp.callbacks.EvaluationWeights())
    # Batches 1 to 3 are a cycle, 4 to 6 the next: at the end of the first epoch x is of batch 3.
    assert_equal(shown.validations[0], plain.batches[2], rtol=1e-6)
    assert_equal(shown.epochs[0], plain.batches[2], rtol=1e-6)
    assert_equal(shown.batches[-1], plain.batches[-1], rtol=1e-6)
    assert_equal(model.get_weights(), plain.batches[8], rtol=1e-6)
    assert abs(plain.epochs[0][0] - shown.epochs[0][0]).max() > 1e-4


def test_without_it_fit_still_ends_at_the_anchor():
    with pytest.warns(UserWarning, match="the last 1 are lost"):
        model, seen = run(entropy())
    assert_equal(model.get_weights(), seen.batches[8], rtol=1e-6)
    assert abs(seen.batches[9][0] - seen.batches[8][0]).max() > 1e-5


def test_accumulated_batches_are_one_of_a_cycle():
    """Ten batches, two at a time: five, so one cycle of three and two more."""
    with pytest.warns(UserWarning, match="a cycle of 6 batches: the last 4 are lost"):
        model, seen = run(entropy(gradient_accumulation_steps=2))
    assert_equal(model.get_weights(), seen.batches[5], rtol=1e-6)


def test_the_mean_may_be_shown():
    _, seen = run(entropy(evaluation_weights="mean"), kp.callbacks.EvaluationWeights())
    y = [seen.batches[i] for i in range(5)]
    mean = [0.25 * x + 0.75 * a for x, a in zip(y[2], y[3], strict=True)]
    mean = [0.25 * m + 0.75 * b for m, b in zip(mean, y[4], strict=True)]
    assert_equal(seen.epochs[0], mean, rtol=1e-5, atol=1e-7)


def test_averages_are_shown():
    averaged = kp.optimizers.StochasticWeightAveraging(keras.optimizers.SGD(0.001))
    _, seen = run(averaged, kp.callbacks.EvaluationWeights())
    means = [np.mean(weights, axis=0) for weights in zip(*seen.batches[:5], strict=True)]
    assert_equal(seen.epochs[0], means, rtol=1e-5)


@pytest.mark.parametrize(
    "around", [lambda sgd: sgd, kp.optimizers.SAM, keras.optimizers.LossScaleOptimizer]
)
def test_keras_moving_averages_are_shown(around):
    """Also of an optimizer inside another; the training goes on with the same bits."""

    def averaging():
        return around(keras.optimizers.SGD(0.001, use_ema=True, ema_momentum=0.5))

    _, plain = run(averaging())
    model, shown = run(averaging(), kp.callbacks.EvaluationWeights())
    assert_equal(shown.batches[-1], plain.batches[-1], rtol=0)
    (part,) = (o for o in state.nested(model.optimizer) if o.use_ema)
    assert_equal(shown.epochs[-1], arrays(part._model_variables_moving_average), rtol=0)
    assert_equal(model.get_weights(), shown.epochs[-1], rtol=0)
    again = kp.callbacks.EvaluationWeights()
    model.fit(X, Y, verbose=0, callbacks=[again])  # which Keras alone cannot on JAX
    model.set_weights([0 * w for w in model.get_weights()])
    expected = model.evaluate(X, Y, verbose=0)
    assert model.evaluate(X, Y, verbose=0, callbacks=[again]) == expected
    assert abs(shown.validations[0][0] - plain.batches[4][0]).max() > 1e-5
    if around is not kp.optimizers.SAM:
        average = plain.batches[0][0]
        for kernel, _ in plain.batches[1:5]:
            average = (average + kernel) / 2
        np.testing.assert_allclose(shown.validations[0][0], average, rtol=1e-6)


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="this Keras has none yet"
)
@pytest.mark.parametrize("by_function", [False, True])
def test_each_of_several_optimizers_shows_its_own(by_function):
    """Cycles of 3 batches for the kernel, of 4 for the bias."""

    def several():
        bias = kp.optimizers.HamiltonJacobi(0.5, 0.001, 4)
        parts = {".*bias": bias, "of no variable": entropy()}
        optimizers = keras.optimizers.OptimizerMap(entropy(), parts)
        optimizers = optimizers.__call__ if by_function else optimizers
        return keras.optimizers.MultiOptimizer(optimizers)

    _, plain = run(several())
    _, shown = run(several(), kp.callbacks.EvaluationWeights(), kp.callbacks.OptimizerLogger())
    kernel, bias = shown.epochs[0]
    np.testing.assert_allclose(kernel, plain.batches[2][0], rtol=1e-6)
    np.testing.assert_allclose(bias, plain.batches[3][1], rtol=1e-6)
    assert_equal(shown.batches[-1], plain.batches[-1], rtol=1e-6)


def test_training_weights_for_those_who_resume():
    evaluated, kept = kp.callbacks.EvaluationWeights(), []

    class Keep(Seen):
        def on_epoch_end(self, epoch, logs=None):
            with evaluated.training_weights():
                kept.append(self._weights())

    _, seen = run(entropy(), evaluated, Keep())
    assert_equal(kept[0], seen.batches[4], rtol=0, atol=0)
    assert_equal(seen.epochs[0], seen.batches[2], rtol=1e-6)


def test_an_optimizer_of_ones_own_says_what_to_evaluate():
    @keras.saving.register_keras_serializable("test")
    class Halves(keras.optimizers.SGD):
        def evaluation_pairs(self):
            return [(v, ops.convert_to_tensor(v) / 2) for v in self._trainable_variables]

    _, seen = run(Halves(0.001), kp.callbacks.EvaluationWeights())
    assert_equal(seen.epochs[0], [w / 2 for w in seen.batches[4]], rtol=1e-6)


def test_one_list_of_callbacks_serves_all_optimizers():
    plain, _ = run("sgd")
    shown, _ = run("sgd", kp.callbacks.EvaluationWeights())
    assert_equal(shown.get_weights(), plain.get_weights(), rtol=0)


class Duel(keras.Model):
    """Two networks with optimizers of their own, in a `train_step` of its own."""

    def __init__(self):
        super().__init__()
        self.networks = [network(), network()]
        self.optimizers = [
            kp.optimizers.EntropySGD(1.0, 0.01, 4, 1e-8, clipnorm=1.0),
            keras.optimizers.SGD(0.001, use_ema=True, ema_momentum=0.9),
        ]

    def call(self, x):
        return self.networks[0](x) - self.networks[1](x)

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        for one, optimizer in zip(self.networks, self.optimizers, strict=True):
            with tf.GradientTape() as tape:
                loss = ops.mean(ops.square(one(x) - y))
            optimizer.apply(tape.gradient(loss, one.trainable_variables), one.trainable_variables)
        return {"loss": loss}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a train_step of TensorFlow")
@pytest.mark.parametrize("shows", [True, False])
def test_optimizers_that_are_not_the_models_are_named(shows):
    """Ten batches in cycles of four: the anchor is that after eight."""
    model, seen = Duel(), Seen()
    model.compile(run_eagerly=True)
    evaluation = kp.callbacks.EvaluationWeights(model.optimizers)
    options = {"batch_size": 10, "shuffle": False, "verbose": 0}
    callbacks = [evaluation, seen] if shows else [seen]
    model.fit(X, Y, epochs=2, callbacks=callbacks, **options)
    trained, kept = seen.batches[-1], model.get_weights()
    if not shows:
        assert_equal(kept, trained, rtol=0)  # as Keras leaves them
        return
    assert_equal(seen.epochs[-1], kept, rtol=0)
    with kp.optimizers.evaluation_weights(model.optimizers[1]):
        average = model.get_weights()[len(kept) // 2 :]
    assert not np.array_equal(kept[0], trained[0])
    np.testing.assert_allclose(kept[len(kept) // 2], average[0], rtol=1e-6)
    with pytest.raises(ValueError, match="Received the optimizer Adam, which trains the weights"):
        model.fit(X, Y, callbacks=[kp.callbacks.EvaluationWeights(keras.optimizers.Adam())])
    with pytest.raises(ValueError, match=r"expected a keras.optimizers.Optimizer"):
        kp.callbacks.EvaluationWeights("adam")
