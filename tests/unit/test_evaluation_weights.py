"""What validation, checkpoints and the end of `fit` see, and recalibrated batch normalization."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_pde as kp
from keras_pde.optimizers import state

pytestmark = pytest.mark.filterwarnings("ignore:.*ends within a cycle")

X = np.random.default_rng(0).normal(2.0, 3.0, size=(50, 4)).astype("float32")
Y = X.sum(1)[:, None]


def network(*layers):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1)])


def arrays(values):
    return [np.array(ops.convert_to_numpy(v)) for v in values]


def assert_equal(first, second, **tolerances):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, **tolerances)


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


class Seen(keras.callbacks.Callback):
    """The weights at the end of each epoch, and those of each validation."""

    def __init__(self):
        super().__init__()
        self.epochs, self.validations, self.batches = [], [], []

    def _weights(self):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        return self.model.get_weights()

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(self._weights())

    def on_test_begin(self, logs=None):
        self.validations.append(self._weights())

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(self._weights())


def run(optimizer, *callbacks, epochs=2):
    """Five batches an epoch."""
    model, seen = network(), Seen()
    model.compile(optimizer, "mse")
    options = {"batch_size": 10, "shuffle": False, "verbose": 0, "epochs": epochs}
    model.fit(X, Y, validation_data=(X, Y), callbacks=[*callbacks, seen], **options)
    return model, seen


def entropy(**arguments):
    return kp.optimizers.EntropySGD(0.5, 0.001, 3, 0.1, **arguments)


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


@pytest.mark.parametrize(
    ("optimizer", "changes"),
    [
        (entropy(), True),
        (
            kp.optimizers.Lookahead(keras.optimizers.SGD(0.001, use_ema=True, ema_momentum=0.5)),
            True,
        ),
        (keras.optimizers.Adam(use_ema=True), True),
        pytest.param(
            keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(use_ema=True)),
            True,
            marks=pytest.mark.skipif(
                keras.backend.backend() == "jax", reason="Keras has its steps in `fit` only"
            ),
        ),
        (kp.optimizers.SALR(0.01, use_ema=False), False),
        (keras.optimizers.Adam(), False),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_loop_of_ones_own_is_judged_as_fit_is(optimizer, changes):
    """Within the context the weights are those with which `fit` would end here."""
    model = network()
    with kp.optimizers.evaluation_weights(optimizer):
        pass  # before the first step
    optimizer.build(model.trainable_variables)
    for gradient in np.random.default_rng(0).normal(size=(5, 5)).astype("float32"):
        gradients = [ops.convert_to_tensor(g) for g in (gradient[:4, None], gradient[4:])]
        optimizer.scale_loss(ops.convert_to_tensor(1.0))
        optimizer.apply(gradients, model.trainable_variables)
    training = model.get_weights()
    with kp.optimizers.evaluation_weights(optimizer):
        judged = model.get_weights()
    assert_equal(model.get_weights(), training, rtol=0)
    with pytest.raises(ZeroDivisionError), kp.optimizers.evaluation_weights(optimizer):
        raise ZeroDivisionError
    assert_equal(model.get_weights(), training, rtol=0)
    assert (abs(judged[0] - training[0]).max() > 1e-7) == changes
    optimizer.finalize_variable_values(model.trainable_variables)
    inside = getattr(optimizer, "inner_optimizer", None)
    if inside and not isinstance(optimizer, kp.optimizers.WrapperOptimizer):
        inside.finalize_variable_values(model.trainable_variables)  # Keras' forgets it
    assert_equal(judged, model.get_weights(), rtol=0)


def test_an_optimizer_of_ones_own_says_what_to_evaluate():
    @keras.saving.register_keras_serializable("test")
    class Halves(keras.optimizers.SGD):
        def evaluation_pairs(self):
            return [(v, ops.convert_to_tensor(v) / 2) for v in self._trainable_variables]

    _, seen = run(Halves(0.001), kp.callbacks.EvaluationWeights())
    assert_equal(seen.epochs[0], [w / 2 for w in seen.batches[4]], rtol=1e-6)


def test_what_fails_on_the_way_changes_nothing():
    class Half(keras.optimizers.SGD):
        def evaluation_pairs(self):
            first, second = self._trainable_variables
            return [(first, ops.zeros(first.shape)), (second, ops.zeros((99,)))]

    model, optimizer = network(), Half()
    optimizer.build(model.trainable_variables)
    before = model.get_weights()
    with pytest.raises(ValueError, match="shape"), kp.optimizers.evaluation_weights(optimizer):
        pass
    assert_equal(model.get_weights(), before, rtol=0)
    model, _ = run(entropy())
    shown = kp.optimizers.evaluation_weights(model.optimizer)
    with shown, pytest.raises(ValueError, match="is entered already"), shown:
        pass


def test_weights_without_values_are_refused():
    with pytest.raises(ValueError, match=r"expected a keras\.optimizers\.Optimizer"):
        kp.optimizers.evaluation_weights(network())
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    for optimizer in (entropy(), keras.optimizers.SGD(use_ema=True)):
        model, _ = run(optimizer)

        @tf.function
        def judged(model=model):
            with kp.optimizers.evaluation_weights(model.optimizer):
                return model(X)

        with pytest.raises(ValueError, match="outside of it"):
            judged()


@pytest.mark.parametrize(
    "optimizer", [kp.optimizers.SALR(), entropy(use_ema=True), keras.optimizers.Adam(use_ema=True)]
)
def test_a_count_that_was_skipped_to_begins_an_average(optimizer):
    model = network()
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    model.set_weights([w + 1 for w in model.get_weights()])
    state.skip(optimizer, 6)
    before = model.get_weights()
    model.fit(X[:10], Y[:10], verbose=0)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=0.05)


@pytest.mark.parametrize("optimizer", [entropy(), kp.optimizers.SAM("sgd")])
def test_a_count_that_was_skipped_to_begins_a_cycle(optimizer):
    """As Keras Tuner's Hyperband needs, which goes on with the weights of another trial."""
    model = network()
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    state.skip(optimizer, 7)
    before = model.get_weights()
    model.train_on_batch(X[:10], Y[:10])
    assert int(optimizer.iterations) == 8
    if hasattr(optimizer, "inner_optimizer"):
        assert int(optimizer.inner_optimizer.iterations) == 3  # it has climbed
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=0.3)
    assert_equal(optimizer.evaluation_values(), before)


@pytest.mark.parametrize("optimizer", [kp.optimizers.SALR(), entropy(), kp.optimizers.Lookahead()])
def test_errors_of_a_second_fit_are_seen(optimizer):
    """On JAX, `fit` ends with variables that have no values."""
    model, _ = run(optimizer)
    with pytest.raises(Exception, match=r"(?i)shape|dimension|broadcast"):
        model.fit(X, np.zeros((50, 7, 3)), verbose=0)


def test_other_optimizers_are_refused():
    with pytest.raises(ValueError, match=r"Leave the callback out"):
        run("sgd", kp.callbacks.OptimizerLogger())


def test_one_list_of_callbacks_serves_all_optimizers():
    plain, _ = run("sgd")
    shown, _ = run("sgd", kp.callbacks.EvaluationWeights())
    assert_equal(shown.get_weights(), plain.get_weights(), rtol=0)


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_statistics_of_a_model_of_several_inputs(kind):
    first, second = keras.Input((4,), name="first"), keras.Input((4,), name="second")
    normalization = keras.layers.BatchNormalization(momentum=0.999)
    z = normalization(keras.layers.Concatenate()([first, second]))
    inputs = [first, second] if kind == "list" else {"first": first, "second": second}
    model = keras.Model(inputs, keras.layers.Dense(3)(z))
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    x = [X, 2 * X] if kind == "list" else {"first": X, "second": 2 * X}
    recalibrate = kp.callbacks.RecalibrateBatchNorm(x, batch_size=25)
    model.fit(x, Y, batch_size=25, verbose=0, callbacks=[recalibrate])
    expected = np.concatenate([X, 2 * X], axis=1).mean(0)
    np.testing.assert_allclose(normalization.moving_mean, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "names"),
    [
        (kp.optimizers.SALR(0.01), {"last_rate", "skipped"}),
        (kp.optimizers.Lookahead(kp.optimizers.SPS(0.01)), {"last_rate", "skipped"}),
        (kp.optimizers.SAGD(0.01), {"batches", "steps", "skipped"}),
        (entropy(scope_growth=1.0), {"scope"}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_optimizers_decide_is_logged(optimizer, names):
    model, _ = run(optimizer, kp.callbacks.OptimizerLogger(), epochs=3)
    history = model.history.history
    assert names == history.keys() - {"loss", "val_loss"}
    if "scope" in names:  # 5, 10, 15 batches are 1, 3, 5 whole cycles of 3
        assert history["scope"] == pytest.approx([0.2, 0.8, 3.2])
    else:
        assert all(history[name][-1] == 0 for name in names & {"skipped"})
        assert all(value > 0 for name in names - {"skipped"} for value in history[name])


def test_recalibrated_statistics_are_those_of_the_data():
    """Of the layer's input, with dropout off; the moving averages have hardly begun."""
    normalization = keras.layers.BatchNormalization(momentum=0.999)
    model = network(keras.layers.Dropout(0.5), normalization)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    recalibrate = kp.callbacks.RecalibrateBatchNorm(X, batch_size=25)
    model.fit(X, Y, batch_size=25, verbose=0, callbacks=[recalibrate])
    mean, variance = arrays([normalization.moving_mean, normalization.moving_variance])
    halves = X.reshape(2, 25, 4)
    np.testing.assert_allclose(mean, X.mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, halves.var(1).mean(0), rtol=1e-4)
    assert normalization.momentum == 0.999


def test_recalibration_comes_before_validation_and_makes_it_right():
    model = network(keras.layers.BatchNormalization(momentum=0.999))
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    found = {}
    for name, callbacks in {
        "lagging": [],
        "right": [kp.callbacks.RecalibrateBatchNorm(X, batch_size=25)],
    }.items():
        options = {"batch_size": 25, "verbose": 0, "validation_data": (X, Y)}
        found[name] = model.fit(X, Y, callbacks=callbacks, **options).history
    assert found["right"]["val_loss"][0] < found["lagging"]["val_loss"][0]
    assert found["right"]["val_loss"][0] == pytest.approx(found["right"]["loss"][0], rel=0.1)


def test_without_validation_the_end_of_an_epoch_is_recalibrated():
    """From batches of a dataset: what can be iterated over, with labels or without."""
    batches = X.reshape(2, 25, 4)
    found = []
    for data in (X, [(x, None) for x in batches], list(batches)):
        normalization = keras.layers.BatchNormalization(momentum=0.999)
        model = network(normalization)
        model.compile(keras.optimizers.SGD(1e-3), "mse")
        seen = Seen()
        recalibrate = kp.callbacks.RecalibrateBatchNorm(data, batch_size=25)
        model.fit(X, Y, batch_size=25, verbose=0, callbacks=[recalibrate, seen])
        found.append(seen.epochs[0])
        (position,) = (i for i, w in enumerate(model.weights) if w is normalization.moving_mean)
        np.testing.assert_allclose(seen.epochs[0][position], X.mean(0), rtol=1e-5)
    assert_equal(found[0], found[1], rtol=1e-6)
    assert_equal(found[0], found[2], rtol=1e-6)


def test_blocks_keep_one_set_of_statistics_for_each_element():
    rate = keras.Sequential([kp.layers.batch_norm(momentum=0.999), keras.layers.Dense(4, "tanh")])
    block = kp.layers.ContinuousBlock(rate, 2, "euler")
    model = network(block)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    recalibrate = kp.callbacks.RecalibrateBatchNorm(X, batch_size=25)
    model.fit(X, Y, batch_size=25, verbose=0, callbacks=[recalibrate])
    (mean,) = (v for v in block.non_trainable_variables if "moving_mean" in v.path)
    np.testing.assert_allclose(arrays([mean])[0][0], X.mean(0), rtol=1e-5)


def test_bad_arguments():
    with pytest.raises(ValueError, match="no BatchNormalization"):
        run("sgd", kp.callbacks.RecalibrateBatchNorm(X, batch_size=25))
    with pytest.raises(ValueError, match="at least one batch"):
        kp.callbacks.RecalibrateBatchNorm(X, batch_size=64)
    model = network(keras.layers.BatchNormalization())
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="gives no batch"):
        model.fit(X, Y, verbose=0, callbacks=[kp.callbacks.RecalibrateBatchNorm([])])


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
