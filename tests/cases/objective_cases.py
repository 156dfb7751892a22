"""What the tests of objectives share: a small smooth network, data, and the golden run.

`python tests/cases/objective_cases.py` rewrites the golden numbers; it is to be run on TensorFlow.
"""

import json
import pathlib

import keras
import numpy as np
from keras import ops

import keras_pde as kp
from keras_pde import registry

BACKEND = keras.backend.backend()
GOLDEN = pathlib.Path(__file__).with_name("golden_objectives.json")

SHAPE, CLASSES, COUNT = (2, 3, 1), 3, 6


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def batch(seed=0):
    """Images well inside [0, 1], labels, sample weights."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.3, 0.7, size=(COUNT, *SHAPE))
    return x, np.arange(COUNT) % CLASSES, rng.uniform(0.5, 2.0, size=COUNT)


def fill(model, seed=1):
    """Weights from numpy, the same on every backend; variances stay positive."""
    rng = np.random.default_rng(seed)
    model.set_weights(
        [
            rng.uniform(0.5, 1.5, v.shape) if "variance" in v.path else rng.normal(size=v.shape)
            for v in model.weights
        ]
    )
    return model


def smooth_network(batch_norm=kp.layers.batch_norm):
    """tanh, batch normalization with arbitrary moving statistics, an L2 regulariser."""
    inputs = keras.Input(SHAPE)
    z = keras.layers.Dense(4, "tanh")(keras.layers.Flatten()(inputs))
    z = batch_norm()(z)
    z = keras.layers.Dense(4, "tanh", kernel_regularizer=keras.regularizers.L2(0.01))(z)
    return fill(keras.Model(inputs, keras.layers.Dense(CLASSES)(z)))


def train_with(model, objective, optimizer, loss=None, eager=False, **options):
    robust = kp.RobustModel(model, objective, **options)
    # One eager step on TensorFlow is faster than a trace; on JAX it is the other way round.
    robust.compile(
        optimizer, loss or cross_entropy(), run_eagerly=eager and BACKEND == "tensorflow"
    )
    return robust


def arrays(variables):
    return [ops.convert_to_numpy(v) for v in variables]


def golden_run(entry):
    """History and a projection of the weights after five steps of one objective."""
    model = smooth_network()
    objective = entry.component(**entry.example)
    robust = train_with(model, objective, keras.optimizers.SGD(0.05, momentum=0.9), eager=True)
    x, y, weight = batch()
    regulariser = sum(float(loss) for loss in model.losses)
    history = robust.fit(x, y, sample_weight=weight, epochs=5, shuffle=False, verbose=0).history
    terms = robust.objective.names
    assert set(history) == {"loss", *terms}
    # In the first step the regulariser is that of the weights at the start.
    total = sum(history[name][0] for name in terms) + regulariser
    np.testing.assert_allclose(history["loss"][0], total, rtol=1e-6)
    assert min(history["loss"]) > 0
    weights = np.concatenate([w.ravel() for w in arrays(model.weights)])
    directions = np.random.default_rng(2).normal(size=(8, weights.size)) / weights.size**0.5
    return {"history": history, "weights": list(directions @ weights)}


if __name__ == "__main__":
    from double_precision import double_precision

    with double_precision():
        runs = {entry.name: golden_run(entry) for entry in registry.entries("objective")}
    GOLDEN.write_text(json.dumps(runs, indent=1) + "\n")
