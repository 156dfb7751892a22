"""Shapes that are known when it runs, or in several lengths; batches that a model insists on."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from robust_model_cases import cross_entropy, tensorflow_only

import keras_pde as kp
from keras_pde.attacks import FGSM, PGD, MinimalDistance
from keras_pde.objectives import Adversarial, GradientPenalty

RNG = np.random.default_rng(0)
COUNT = 8
X = RNG.uniform(size=(COUNT, 6, 3)).astype("float32")
Y = np.arange(COUNT) % 2


def signals(length=None):
    """Of any length, or of one; the same weights."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((length, 3))
    z = layers.GlobalAveragePooling1D()(layers.Conv1D(4, 2, activation="tanh")(inputs))
    return keras.Model(inputs, layers.Dense(2)(z))


def trained(model, objective, data):
    robust = kp.RobustModel(model, objective)
    robust.compile(keras.optimizers.SGD(0.5), cross_entropy())
    robust.fit(*data, batch_size=None if len(data) == 1 else COUNT, shuffle=False, verbose=0)
    return model.get_weights()


@tensorflow_only
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
@pytest.mark.filterwarnings("ignore:`shuffle=|Your input ran out")  # of Keras, about generators
def test_training_on_a_dataset_of_unknown_lengths(norm):
    """As on arrays: random starts, projections and differences of the same numbers."""
    import tensorflow as tf

    objective = Adversarial(norm, 0.05, steps=2, random_start=True)
    objective = objective + GradientPenalty(norm, 0.1, method="finite_difference", fraction=0.5)
    spec = (tf.TensorSpec((None, None, 3)), tf.TensorSpec((None,), tf.int64))
    unknown = tf.data.Dataset.from_generator(lambda: iter([(X, Y)]), output_signature=spec)
    found = trained(signals(), objective, (unknown,))
    for a, b in zip(found, trained(signals(6), objective, (X, Y)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_attacks_on_a_model_of_any_length(norm):
    attack = PGD(norm, 0.1, steps=3, random_start=True)
    found, expected = attack(signals(), X, Y), attack(signals(6), X, Y)
    np.testing.assert_array_equal(found.adversarial, expected.adversarial)


def test_a_dataset_of_several_lengths_is_one_report_in_its_order():
    lengths = [5, 7, 5, 6]
    batches = [(RNG.uniform(size=(4, n, 3)).astype("float32"), np.arange(4) % 2) for n in lengths]
    attacks = [PGD("l2", steps=3, restarts=2), MinimalDistance("l2", steps=3)]
    settings = {"epsilons": [0.05], "noise": [("gaussian", 0.2)], "norm": "l2", "attacks": attacks}
    report = kp.evaluate(signals(), batches, **settings)
    apart = [kp.evaluate(signals(), *batch, **settings) for batch in batches]
    distances = np.concatenate([part.distance for part in apart])
    np.testing.assert_allclose(report.distance, distances, rtol=1e-5)
    assert report.clean_accuracy == np.mean([part.clean_accuracy for part in apart])
    for run, parts in zip(report.runs, zip(*(p.runs for p in apart), strict=True), strict=True):
        assert run.robust_accuracy == np.mean([part.robust_accuracy for part in parts])
    assert report.count == 16 and kp.Report.from_json(report.to_json()) == report
    with pytest.raises(ValueError, match="several shapes"):
        report.save_adversarials("nowhere.npz")


def stateful():
    inputs = keras.Input(batch_shape=(COUNT, 6, 3))
    return keras.Model(inputs, layers.Dense(2)(layers.SimpleRNN(2, stateful=True)(inputs)))


def of_eight():
    inputs = keras.Input(batch_shape=(COUNT, 6, 3))
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(inputs)))


@pytest.mark.parametrize(
    ("make", "message"),
    [(stateful, "stateful layers .*stateful=False"), (of_eight, "batches of 8 only")],
)
def test_models_that_insist_on_their_batches_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        FGSM("linf", 0.1)(make(), X, Y)
    with pytest.raises(ValueError, match=message):
        kp.evaluate(make(), X, Y, epsilons=[0.1])
    if make is stateful:
        with pytest.raises(ValueError, match=message):
            kp.RobustModel(make(), Adversarial("linf", 0.1))


def test_one_target_for_all():
    model, y = signals(), np.zeros(COUNT, int)
    many = PGD("linf", 0.3, steps=5)(model, X, y, targets=np.ones(COUNT, int))
    one = PGD("linf", 0.3, steps=5)(model, X, y, targets=1)
    np.testing.assert_array_equal(one.adversarial, many.adversarial)


@pytest.mark.parametrize(
    ("x", "fix"),
    [(X, r"channel axis is missing: x\[..., None\]"), (X[0], r"batch axis: x\[None\]")],
)
def test_missing_axes_are_named(x, fix):
    inputs = keras.Input((6, 3, 1) if x.ndim == 3 else (6, 3))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(inputs)))
    with pytest.raises(ValueError, match=fix):
        FGSM("linf", 0.1)(model, x, Y[: len(x)])


@tensorflow_only
def test_a_trained_model_is_exported(tmp_path):
    import tensorflow as tf

    model = signals(6)
    robust = kp.RobustModel(model, Adversarial("linf", 0.1))
    robust.compile("sgd", cross_entropy())
    robust.fit(X, Y, verbose=0)
    robust.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served.serve(X), ops.convert_to_numpy(model(X)), atol=1e-6)
