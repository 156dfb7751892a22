"""RobustModel: the plain model's behaviour where nothing was asked for, and robust training."""

import contextlib

import keras
import numpy as np
import pytest
from keras import ops

import keras_pde as kp
from keras_pde import autodiff, geometry
from keras_pde.training.objectives import (
    Adversarial,
    GradientPenalty,
    MaxGradientPenalty,
    Penalty,
    Plain,
    Tikhonov,
    Tulip,
)

BACKEND = keras.backend.backend()
tensorflow_only = pytest.mark.skipif(BACKEND != "tensorflow", reason="about TensorFlow")

SHAPE, CLASSES, COUNT = (4, 4, 1), 3, 24
RNG = np.random.default_rng(0)
X = RNG.uniform(size=(COUNT, *SHAPE)).astype("float32")
Y = np.arange(COUNT) % CLASSES
ONE_HOT = np.eye(CLASSES, dtype="float32")[Y]
WEIGHT = RNG.uniform(0.5, 2.0, size=COUNT).astype("float32")

layers = keras.layers


def cross_entropy(**kwargs):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **kwargs)


def functional(head=None, dropout=0.3):
    """Everything at once: convolution, batch normalization, dropout, a regulariser."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(2, 3, activation="relu")(inputs)
    x = kp.layers.batch_norm()(x)
    x = layers.Dropout(dropout)(layers.Flatten()(x))
    kernel = {"kernel_regularizer": keras.regularizers.L2(0.01)}
    return keras.Model(inputs, layers.Dense(CLASSES, activation=head, **kernel)(x))


def sequential(head=None, built=True, units=CLASSES):
    keras.utils.set_random_seed(1)
    start = [keras.Input(SHAPE)] if built else []
    return keras.Sequential([*start, layers.Flatten(), layers.Dense(units, activation=head)])


class Subclassed(keras.Model):
    """The last attribute is not the head."""

    def __init__(self):
        super().__init__()
        self.flatten, self.drop = layers.Flatten(), layers.Dropout(0.3)
        self.head, self.body = layers.Dense(CLASSES), layers.Dense(5, activation="softmax")

    def call(self, x, training=None):
        return self.head(self.drop(self.body(self.flatten(x)), training=training))


class WithoutTraining(Subclassed):
    def call(self, x):
        return self.head(self.drop(self.body(self.flatten(x))))


def seeded(make):
    keras.utils.set_random_seed(1)
    return make()


def built(make):
    model = seeded(make)
    model(X[:1])
    return model


def momentum():
    return keras.optimizers.SGD(0.1, momentum=0.9)


def fit(model, x=X, y=Y, loss=None, epochs=2, compile_options=None, **options):
    """History of a fit with fixed order and metrics."""
    compile_options = {"metrics": ["accuracy"], **(compile_options or {})}
    model.compile(momentum(), loss or cross_entropy(), **compile_options)
    return resume(model, x, y, epochs, **options)


def resume(model, x=X, y=Y, epochs=1, **options):
    keras.utils.set_random_seed(2)
    options = {"batch_size": 8, "shuffle": False, "verbose": 0, **options}
    if y is None:
        del options["batch_size"]
    return model.fit(x, y, epochs=epochs, **options).history


def robust(objective, model=None, **options):
    return kp.RobustModel(model or functional(), objective, **options)


def arrays(model):
    return [ops.convert_to_numpy(w) for w in model.weights]


def assert_same_weights(a, b, rtol=0.0):
    for v, w in zip(arrays(a), arrays(b), strict=True):
        np.testing.assert_allclose(v, w, rtol=rtol, atol=rtol)


# The plain model's behaviour


# Where compilation is not the point, TensorFlow is faster without; JAX is not.
EAGER = {"run_eagerly": BACKEND == "tensorflow"}


def assert_equals_plain(make, eager=False, **options):
    """A fit with `Plain()` gives the bits of the plain model's own."""
    if eager:
        options = {"epochs": 1, "compile_options": EAGER, **options}
    plain, wrapped = make(), make()
    expected = fit(plain, **options)
    wrapper = robust(Plain(), wrapped)
    received = fit(wrapper, **options)
    assert set(received) == {*expected, "plain"}
    for name, values in expected.items():
        assert received[name] == values, name
    assert_same_weights(wrapped, plain)
    assert wrapper.model is wrapped
    return received


def dataset(x=X, y=Y, batch_size=8):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size)


@pytest.mark.parametrize(
    "options",
    [
        {"sample_weight": WEIGHT, "validation_data": (X[:9], Y[:9])},
        {"class_weight": {0: 0.2, 1: 1.0, 2: 3.0}, "validation_split": 0.25, "eager": True},
    ],
    ids=lambda options: "-".join(options),
)
def test_plain_objective_equals_plain_fit(options):
    history = assert_equals_plain(functional, **options)
    assert {"val_loss", "val_accuracy"} < set(history)
    assert not {name for name in history if name.startswith("val_") and "plain" in name}


@pytest.mark.parametrize(
    "make",
    [
        lambda: sequential(),
        lambda: sequential(built=False),
        lambda: built(Subclassed),
        lambda: seeded(Subclassed),
        lambda: built(WithoutTraining),
        lambda: seeded(WithoutTraining),
    ],
    ids=["sequential", "unbuilt", "subclassed", "unbuilt", "without training", "unbuilt"],
)
def test_every_kind_of_model(make):
    assert_equals_plain(make)


@tensorflow_only
def test_datasets():
    assert_equals_plain(sequential, x=dataset(), y=None, validation_data=dataset())


@tensorflow_only
def test_a_dataset_equals_arrays():
    objective = Adversarial("l2", 0.1) + GradientPenalty("l2", 0.1)
    one, other = robust(objective, sequential()), robust(objective, sequential())
    assert fit(one) == fit(other, dataset(), None)
    assert_same_weights(one, other)


def squared(y_true, y_pred):
    return ops.mean(ops.square(y_true - ops.softmax(y_pred)), axis=-1)


class Cubic(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return ops.sum(ops.abs(y_true - y_pred) ** 3, axis=-1)


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1), ONE_HOT),
        (keras.losses.CategoricalCrossentropy(from_logits=True), 0.7 * ONE_HOT + 0.1),
        ("mean_squared_error", ONE_HOT),
        (keras.losses.KLDivergence(), ONE_HOT),
        (squared, ONE_HOT),
        (Cubic(), ONE_HOT),
        (keras.losses.Huber(reduction="sum"), ONE_HOT),
        (cross_entropy(ignore_class=2), Y),
    ],
    ids=["smoothed", "soft labels", "mse", "kl", "function", "subclass", "sum", "ignore class"],
)
def test_any_loss(loss, y):
    assert_equals_plain(sequential, eager=True, y=y, loss=loss)


@pytest.mark.parametrize("shape", [(COUNT,), (COUNT, 1)])
def test_one_output(shape):
    """Labels of shape (batch,) and (batch, 1) mean the same, also for crafting."""
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    y = (Y == 1).astype("float32").reshape(shape)
    assert_equals_plain(lambda: sequential(units=1), eager=True, y=y, loss=loss)
    model = robust(Adversarial("l2", 0.1), sequential(units=1))
    model.compile("sgd", loss)
    (z,) = ops.convert_to_numpy(model(X)).T
    w = ops.convert_to_numpy(model.model.layers[-1].kernel)[:, 0]
    # J2 of a linear model: the margin shrinks by epsilon |w|, up to the box.
    sign = 2 * y.reshape(-1) - 1
    reached = np.log1p(np.exp(-sign * z + 0.1 * np.linalg.norm(w))).mean()
    inside = Adversarial("l2", 0.1, bounds=None)
    model = robust(inside, model.model)
    model.compile(keras.optimizers.SGD(0.0), loss)
    logs = model.train_on_batch(X, y, return_dict=True)
    np.testing.assert_allclose(logs["adversarial"], reached, rtol=1e-5)


def test_dense_prediction():
    """One output a pixel: an example's loss is the mean over its pixels."""

    def make():
        keras.utils.set_random_seed(1)
        return keras.Sequential([keras.Input(SHAPE), layers.Conv2D(CLASSES, 1)])

    y = RNG.integers(0, CLASSES, size=(COUNT, 4, 4))
    assert_equals_plain(make, eager=True, y=y)


def test_one_hot_equals_integer_labels():
    objective = Adversarial("linf", 0.1) + GradientPenalty("l1", 0.1)
    sparse, one_hot = robust(objective, sequential()), robust(objective, sequential())
    a = fit(sparse, compile_options=EAGER)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    b = fit(one_hot, y=ONE_HOT, loss=loss, compile_options=EAGER)
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)
    assert_same_weights(sparse, one_hot, 1e-5)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean"])
def test_terms_add_up_to_the_loss(reduction):
    objective = Adversarial("l2", 0.1) + GradientPenalty("l2", 0.1) + MaxGradientPenalty(0.1)
    model = robust(objective)
    model.compile("sgd", cross_entropy(reduction=reduction), loss_weights=2.0, **EAGER)
    regulariser = float(sum(model.model.losses))
    logs = model.train_on_batch(X, Y, return_dict=True)
    terms = [logs.pop(name) for name in objective.names]
    assert min(terms) > 0
    np.testing.assert_allclose(logs["loss"], sum(terms) + regulariser, rtol=1e-6)


def test_a_penalty_of_ones_own():
    class Constant(Penalty):
        name = "constant"

        def value(self, step):
            return ops.mean(step.weighted(0.0 * step.main.losses + 2.0))

    model = robust(Adversarial("l2", 0.1) + Constant(), sequential())
    model.compile("sgd", cross_entropy(), **EAGER)
    logs = model.train_on_batch(X, Y, return_dict=True)
    np.testing.assert_allclose(logs["constant"], 2.0)
    np.testing.assert_allclose(logs["loss"], logs["adversarial"] + 2.0, rtol=1e-6)


class TestEvaluation:
    @pytest.fixture(scope="class")
    def pair(self):
        """A wrapper after a fit, and the plain model with its weights."""
        wrapper = robust(Tulip(0.1, 0.1))
        fit(wrapper)
        plain = functional()
        plain.set_weights(wrapper.model.get_weights())
        plain.compile(momentum(), cross_entropy(), metrics=["accuracy"])
        return wrapper, plain

    def test_evaluate(self, pair):
        wrapper, plain = pair
        for options in ({"return_dict": True}, {}, {"sample_weight": WEIGHT}):
            received = wrapper.evaluate(X, Y, verbose=0, **options)
            assert received == plain.evaluate(X, Y, verbose=0, **options)
        received = wrapper.test_on_batch(X, Y, return_dict=True)
        assert received == plain.test_on_batch(X, Y, return_dict=True)

    def test_predict(self, pair):
        for received, expected in (
            [m.predict(X, verbose=0) for m in pair],
            [ops.convert_to_numpy(m(X)) for m in pair],
        ):
            np.testing.assert_array_equal(received, expected)

    def test_fit_shows_terms_after_an_evaluation(self, pair):
        wrapper, _ = pair
        history = resume(wrapper, validation_data=(X, Y))
        terms = {"adversarial", "max_gradient_penalty"}
        assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy", *terms}

    def test_shapes_and_weights_are_the_models(self, pair):
        wrapper, plain = pair
        assert wrapper.compute_output_shape((2, *SHAPE)) == (2, CLASSES)
        assert wrapper.count_params() == plain.count_params()
        assert [v.path for v in wrapper.weights] == [v.path for v in wrapper.model.weights]


def test_fit_takes_positional_arguments_as_keras_does():
    model = robust(Plain(), sequential())
    model.compile("sgd", cross_entropy())
    assert len(model.fit(X, Y, 8, 2, 0).history["loss"]) == 2


# Saving


def test_saved_and_continued_equals_uninterrupted(tmp_path):
    """Momentum and the noise of random starts survive a `.keras` file (not dropout, in Keras)."""
    objective = Adversarial("linf", 0.1, random_start=True) + GradientPenalty("l2", 0.1)
    straight, broken = (robust(objective, sequential(), seed=5) for _ in range(2))
    expected = fit(straight, epochs=3)
    fit(broken, epochs=2)
    broken.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.objective == objective
    assert loaded.seed == 5
    history = resume(loaded)
    for name, values in history.items():
        np.testing.assert_allclose(values[0], expected[name][2], rtol=1e-6, err_msg=name)
    assert_same_weights(loaded, straight, 1e-6)


def test_weight_files_are_the_plain_models(tmp_path):
    wrapper = robust(Plain())
    best = keras.callbacks.ModelCheckpoint(tmp_path / "c.weights.h5", save_weights_only=True)
    fit(wrapper, epochs=1, callbacks=[best])
    wrapper.save_weights(tmp_path / "w.weights.h5")
    for name in ("c", "w"):
        plain = functional()
        plain.load_weights(tmp_path / f"{name}.weights.h5")
        assert_same_weights(plain, wrapper.model)
    other = robust(Plain())
    other.load_weights(tmp_path / "w.weights.h5")
    assert_same_weights(other, wrapper)


def test_backup_and_restore_continues_the_optimizer(tmp_path):
    """Momentum, and the step number, which is what noise and schedules are functions of."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def make():
        return robust(Adversarial("linf", 0.1, random_start=True), sequential())

    straight, broken, resumed = make(), make(), make()
    expected = fit(straight, epochs=3)
    backup = [keras.callbacks.BackupAndRestore(tmp_path / "backup")]
    with pytest.raises(KeyboardInterrupt):
        fit(broken, epochs=3, callbacks=[*backup, Stop()])
    history = fit(resumed, epochs=3, callbacks=backup)
    np.testing.assert_allclose(history["loss"], expected["loss"][2:], rtol=1e-6)
    assert_same_weights(resumed, straight, 1e-6)
    assert resumed.model.optimizer is None


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")  # as plain Keras
def test_weight_files_with_and_without_optimizer_can_be_loaded(tmp_path):
    """By the wrapper and by the plain model, compiled or not."""
    plain, wrapper = sequential(), robust(Plain(), sequential())
    files = [tmp_path / f"{i}.weights.h5" for i in range(3)]
    plain.save_weights(files[0])
    for model, file in ((plain, files[1]), (wrapper, files[2])):
        fit(model, epochs=1)
        model.save_weights(file)
    for file in files:
        expected = sequential()
        expected.load_weights(file)
        for model in (robust(Plain(), sequential()), sequential()):
            model.load_weights(file)
            assert_same_weights(model, expected)
            model.compile(momentum(), cross_entropy())
            model.set_weights([0 * w for w in model.get_weights()])
            model.load_weights(file)
            assert_same_weights(model, expected)


def test_callbacks(tmp_path):
    wrapper = robust(Adversarial("l2", 0.1), sequential())
    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", patience=0, restore_best_weights=True),
        keras.callbacks.LearningRateScheduler(lambda epoch: -1.0),  # training makes it worse
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.ModelCheckpoint(tmp_path / "model.keras", save_best_only=True),
        keras.callbacks.TerminateOnNaN(),
    ]
    history = fit(wrapper, epochs=5, validation_data=(X, Y), callbacks=callbacks)
    assert len(history["loss"]) < 5
    assert (tmp_path / "log.csv").read_text().startswith("epoch,accuracy,adversarial,")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same_weights(loaded, wrapper)


# How it runs


@contextlib.contextmanager
def policy(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def test_mixed_float16():
    objective = Adversarial("l2", 0.1) + GradientPenalty("l2", 0.1) + MaxGradientPenalty(0.1)
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
    penalties = GradientPenalty("l2", 0.1) + MaxGradientPenalty(0.1, at="perturbed")
    wrapper = robust(Adversarial("l2", 0.5, bounds=None) + penalties, model)
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
            "l2", 1.0, method="finite_difference", step=h, fraction=fraction, statistics="batch"
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
        (Adversarial("l2", 0.1) + MaxGradientPenalty(1.0), 3),
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


# Refusals


def multi_output():
    inputs = keras.Input(SHAPE)
    x = layers.Flatten()(inputs)
    return keras.Model(inputs, [layers.Dense(CLASSES)(x), layers.Dense(CLASSES)(x)])


def nested(head):
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, sequential(head)(inputs))


def softmax_layer():
    return keras.Sequential(
        [keras.Input(SHAPE), layers.Flatten(), layers.Dense(3), layers.Softmax()]
    )


@pytest.mark.parametrize(
    ("model", "loss", "message"),
    [
        (lambda: functional("softmax"), cross_entropy(), "from_logits=True .*'softmax'"),
        (lambda: sequential("sigmoid"), cross_entropy(), "from_logits=True .*'sigmoid'"),
        (softmax_layer, cross_entropy(), "Remove the activation"),
        (lambda: nested("softmax"), cross_entropy(), "Remove the activation"),
        (functional, "sparse_categorical_crossentropy", "from_logits=False .*linear"),
        (sequential, keras.losses.sparse_categorical_crossentropy, "from_logits=False .*linear"),
        (sequential, keras.losses.CategoricalCrossentropy(), "logits, not probabilities"),
        (sequential, None, "expected one loss"),
        (sequential, ["mse", "mse"], "expected one loss"),
        (sequential, {"a": "mse"}, "expected one loss"),
    ],
)
def test_compile_refuses(model, loss, message):
    wrapper = robust(Plain(), model())
    with pytest.raises(ValueError, match=message):
        wrapper.compile("sgd", loss)


def test_a_head_that_cannot_be_told_is_not_refused():
    for loss in (cross_entropy(), "sparse_categorical_crossentropy"):
        robust(Plain(), built(Subclassed)).compile("sgd", loss)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((lambda x: x, Plain()), "expected a `keras.Model`"),
        ((sequential(), "tulip"), "expected a term"),
        ((multi_output(), Plain()), "one output"),
    ],
)
def test_constructor_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        kp.RobustModel(*arguments)


def spoiled(x, value):
    x = x.copy()
    x[3, 1] = value
    return x


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (255 * X, Y, "divide by 255"),
        (2 * X - 1, Y, r"expected \[0, 1\]"),
        (spoiled(X, np.nan), Y, "NaN"),
        (spoiled(X, np.inf), Y, "infinite"),
        (X[:0], Y[:0], "at least one example"),
        (X, Y + 1, "Do the classes start at 1"),
        (X, Y - 1, "from -1"),
        (X, Y + 0.5, "fractions"),
        (X, Y[:5], "5 labels for 24 images"),
        ({"image": X}, Y, "x as a dict"),
        ([X, X], Y, "x as a list"),
        (X, {"label": Y}, "y as a dict"),
        (X, None, "y as None"),
    ],
)
def test_fit_refuses(x, y, message):
    wrapper = robust(Adversarial("l2", 0.1), sequential())
    before = arrays(wrapper)
    wrapper.compile("sgd", cross_entropy(), **EAGER)
    with pytest.raises(ValueError, match=message):
        wrapper.fit(x, y, verbose=0)
    for a, b in zip(before, arrays(wrapper), strict=True):
        np.testing.assert_array_equal(a, b)


@tensorflow_only
@pytest.mark.parametrize("x", [255 * X, spoiled(X, np.nan)])
def test_fit_refuses_a_dataset_on_another_scale(x):
    import tensorflow as tf

    wrapper = robust(Adversarial("l2", 0.1), sequential())
    wrapper.compile("sgd", cross_entropy())
    with pytest.raises(tf.errors.InvalidArgumentError, match="divide by 255"):
        wrapper.fit(dataset(x), verbose=0, shuffle=False)


def test_integer_images_and_other_bounds():
    images = np.round(255 * X).astype("uint8")
    wrapper = robust(Adversarial("l2", 10.0, bounds=(0, 255)), sequential())
    wrapper.compile("sgd", cross_entropy(), **EAGER)
    assert np.isfinite(wrapper.fit(images, Y, verbose=0).history["loss"][0])


def test_a_loss_of_one_number_is_refused():
    wrapper = robust(Plain(), sequential())
    wrapper.compile("sgd", lambda y, z: ops.mean(ops.square(y - z)))
    with pytest.raises(ValueError, match="do not average over the batch"):
        wrapper.fit(X, ONE_HOT, verbose=0)


def test_two_data_terms_are_refused():
    with pytest.raises(ValueError, match="one data term plus penalties"):
        robust(Tikhonov(0.1) + Plain() + Adversarial("l2", 0.1))
