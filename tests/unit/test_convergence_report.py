"""convergence_report: observed orders, what it says of classes, and what it leaves alone."""

import importlib
import json

import keras
import numpy as np
import pytest
from keras import layers

from keras_pde import RobustModel, analysis, models
from keras_pde.layers import ContinuousBlock, HamiltonianBlock
from keras_pde.objectives import Plain

X = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 40)


def classifier(scheme="euler", steps=4, **kwargs):
    keras.utils.set_random_seed(0)
    rate = layers.Dense(6, activation="tanh", kernel_initializer="he_normal")
    inputs = keras.Input((6,))
    y = ContinuousBlock(rate, steps, scheme, horizon=2.0, **kwargs)(inputs)
    return keras.Model(inputs, layers.Dense(3)(y), name="classifier")


@pytest.fixture(scope="module")
def report():
    return analysis.convergence_report(classifier(), X, Y, steps=[2, 4, 8])


def test_observed_orders_are_those_of_the_schemes(report):
    for scheme, order, digits in (("euler", 1, 0.15), ("midpoint", 2, 0.2), ("rk4", 4, 0.4)):
        rows = [row for row in report.rows if row.scheme == scheme]
        assert [row.steps for row in rows] == [2, 4, 8]
        assert not rows[0].aligned
        assert all(row.aligned for row in rows[1:])
        assert rows[2].order == pytest.approx(order, abs=digits)
        assert rows[-1].evaluations == 8 * {"euler": 1, "midpoint": 2, "rk4": 4}[scheme]


def test_accuracy_and_agreement_are_shares_of_the_examples(report):
    model = classifier()
    accuracy = np.mean(model.predict(X, verbose=0).argmax(-1) == Y)
    own = next(row for row in report.rows if (row.scheme, row.steps) == ("euler", 4))
    assert own.accuracy == pytest.approx(accuracy)
    assert report.rows[-1].agreement == 1.0
    assert all(row.seconds > 0 for row in report.rows)


def test_table_json_and_picture(report, tmp_path):
    text = report.table()
    assert "classifier: convergence in depth, 40 examples" in text
    assert "2*" in text
    assert "'rk4' with 128 steps" in text
    rows = json.loads(json.dumps(report.to_dict()))["rows"]
    assert len(rows) == 9
    report.plot(tmp_path / "convergence.png")
    assert (tmp_path / "convergence.png").stat().st_size > 10_000


def test_default_steps_and_no_labels():
    model = classifier(num_basis=1)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    report = analysis.convergence_report(model, X, schemes=["heun"])
    assert [row.steps for row in report.rows] == [1, 2, 4, 8]
    assert {row.accuracy for row in report.rows} == {None}
    assert all(row.agreement > 0.5 for row in report.rows)


@pytest.mark.parametrize("y", [None, np.random.default_rng(0).normal(size=(40, 3))])
def test_of_a_regression_no_classes_are_compared(y, tmp_path):
    """The largest of several coordinates is no class."""
    report = analysis.convergence_report(classifier(), X, y, schemes=["euler"], steps=[2])
    (row,) = report.rows
    assert (row.accuracy, row.agreement) == (None, None) and row.error > 0
    assert len(report.plot(tmp_path / "one.png").axes) == 1
    assert report.table().splitlines()[-3].count(" - ") == 3  # order, accuracy, agreement


@pytest.mark.parametrize("labelled", [True, False])
def test_a_dataset_that_shuffles_is_read_once(labelled):
    class Shuffled:
        """Another order each time."""

        rng = np.random.default_rng(0)

        def __iter__(self):
            order = self.rng.permutation(len(X)).reshape(-1, 10)
            return iter([(X[rows], Y[rows]) if labelled else X[rows] for rows in order])

    options = {"schemes": ["rk4"], "steps": [4]}
    found = analysis.convergence_report(classifier(), Shuffled(), **options).rows[0]
    expected = analysis.convergence_report(classifier(), X, Y, **options).rows[0]
    assert found.error == pytest.approx(expected.error, rel=1e-3)
    assert found.accuracy == (expected.accuracy if labelled else None)


def test_hidden_blocks_and_blocks_of_pairs():
    hidden = keras.Sequential([keras.Input((6,)), keras.Sequential([classifier()])])
    rows = analysis.convergence_report(hidden, X, schemes=["rk4"], steps=[4, 8]).rows
    assert rows[1].error < rows[0].error < 1e-3
    inputs = keras.Input((6,))
    pair = keras.Model(inputs, HamiltonianBlock(4, seed=0)(inputs))
    schemes = ["symplectic_euler", "verlet"]
    rows = analysis.convergence_report(pair, X, schemes=schemes, steps=[8, 16]).rows
    assert rows[1].order == pytest.approx(1, abs=0.3)


def test_evaluations_are_counted_by_call():
    inputs = keras.Input((6,))
    block = ContinuousBlock(layers.Dense(6, name="rate"), 2, "euler")
    model = keras.Model(inputs, block(block(inputs)))
    options = {"schemes": ["euler"], "steps": [2]}
    assert analysis.convergence_report(model, X, **options).rows[0].evaluations == 4
    averaged = RobustModel(classifier(), Plain(), average=0.9)
    assert analysis.convergence_report(averaged, X, **options).rows[0].evaluations == 2
    zero = keras.Sequential([keras.Input((6,)), layers.Rescaling(0.0), classifier().layers[1]])
    zero.set_weights([0 * w for w in zero.get_weights()])
    with pytest.raises(ValueError, match="puts out zeros"):
        analysis.convergence_report(zero, X, **options)


def test_continuous_net_is_reported():
    model = models.create("continuous_net", input_shape=(8, 8, 3), width=2, steps=2)
    x = np.random.default_rng(0).uniform(size=(8, 8, 8, 3)).astype("float32")
    report = analysis.convergence_report(model, x, schemes=["euler"], steps=[2])
    assert report.rows[0].evaluations == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": [0]}, "at least 1"),
        ({"schemes": ["rk44"]}, "Did you mean"),
        ({"schemes": ["verlet"]}, "2 fields"),
        ({"y": Y[:5]}, "5 labels for 40"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        analysis.convergence_report(classifier(), X, **arguments)


def test_models_without_blocks_are_refused():
    with pytest.raises(ValueError, match="no ContinuousBlock"):
        analysis.convergence_report(models.create("mlp", input_shape=(8, 8, 1)), X)


def test_a_hidden_last_block_is_not_confused_with_one_before_it():
    hidden = keras.Sequential([keras.Input((2,)), ContinuousBlock(keras.layers.Dense(2), 1)])
    inputs = keras.Input((2,))
    model = keras.Model(inputs, hidden(ContinuousBlock(keras.layers.Dense(2), 1)(inputs)))
    module = importlib.import_module("keras_pde.analysis.convergence_report")
    state, outputs, *_ = module._outcome(model, "euler", 1, np.ones((3, 2)), 8)
    assert state is outputs
