"""Blocks and cells on two replicas equal those on one device, also through a refinement."""

import json
import sys

import keras
import mirrored_cases
import numpy as np
import pytest
from keras import layers
from mirrored_cases import alone, together
from selection import some

import keras_pde as kp

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="about tf.distribute"
)

X = np.random.default_rng(0).normal(size=(24, 4, 6)).astype("float32")
Y = X.sum((1, 2))[:, None]


def normed():
    return keras.Sequential([layers.Dense(6, activation="tanh"), kp.layers.batch_norm()])


CASES = {
    # The statistics of both replicas, from steps that are written out although there are many.
    "statistics": lambda: kp.layers.ContinuousBlock(normed(), 10, "heun", num_basis=5),
    "loop": lambda: kp.layers.ContinuousBlock(
        layers.Dense(6, activation="tanh"), 10, num_basis=5, memory="remat", unroll=False
    ),
    "refined": lambda: kp.layers.ContinuousBlock(normed(), 1, "euler"),
    "reversible": lambda: kp.layers.HamiltonianBlock(20, memory="reversible"),
    "recurrent": lambda: kp.layers.AntisymmetricRNN(6, 0.1, 0.1, return_sequences=True),
}


def train(name, scope, options):
    """The loss of each epoch, and the final weights."""
    keras.utils.set_random_seed(0)
    callbacks = [kp.callbacks.RefineDepth([1])] if name == "refined" else []
    with scope:
        model = keras.Sequential(
            [keras.Input((4, 6)), CASES[name](), layers.Flatten(), layers.Dense(1)]
        )
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse", **options)
    options = {"batch_size": 8, "shuffle": False, "verbose": 0, "epochs": 2}
    losses = model.fit(X, Y, callbacks=callbacks, **options).history["loss"]
    return {"losses": losses, "weights": [w.tolist() for w in model.get_weights()]}


def main():
    strategy = mirrored_cases.strategy()
    print(
        json.dumps(
            {
                name: [train(name, *alone()), train(name, *together(strategy))]
                for name in sys.argv[1:]
            }
        )
    )


@pytest.fixture(scope="module")
def results(request):
    return mirrored_cases.results(request, "name")


@pytest.mark.parametrize("name", some(CASES, fast=["statistics"]))
def test_two_replicas_equal_one_device(results, name):
    one, two = results[name]
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-5)
    assert one["losses"][1] < one["losses"][0]
    for a, b in zip(one["weights"], two["weights"], strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)
    if name == "refined":
        assert len(one["weights"][0]) == 2


if __name__ == "__main__":
    main()
