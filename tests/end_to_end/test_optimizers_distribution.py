"""Every optimizer on two replicas equals one device, after three cycles and with noise."""

import json
import sys

import keras
import mirrored_cases
import numpy as np
import pytest
from mirrored_cases import alone, together
from optimizer_cases import build
from selection import some

from keras_pde import callbacks, registry

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="about tf.distribute"
)

X = np.random.default_rng(0).normal(size=(72, 4)).astype("float32")
Y = X.sum(1)[:, None]
OPTIONS = {"": {}, "averaged": {"use_ema": True}, "clipped": {"global_clipnorm": 0.1}}
SEVERAL = [f"{name}, {option}" for name in ("salr", "entropy_sgd") for option in OPTIONS if option]
CASES = [*registry.names("optimizer"), *SEVERAL]
# One of each base class.
FAST = ["entropy_sgd", "sam", "salr, averaged"]


def train(case, scope, options):
    """The losses, and the weights after twelve batches and three more, which end within a cycle."""
    name, _, option = case.partition(", ")
    (entry,) = (entry for entry in registry.entries("optimizer") if entry.name == name)
    keras.utils.set_random_seed(0)
    with scope:
        layers = [keras.layers.Dense(5, "tanh"), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((4,)), *layers])
        model.compile(build(entry, **OPTIONS[option]), "mse", **options)
    options = {"batch_size": 6, "shuffle": False, "verbose": 0}
    if option == "averaged":
        options |= {"callbacks": [callbacks.EvaluationWeights()], "validation_data": (X, Y)}
    losses = [loss for found in model.fit(X, Y, **options).history.values() for loss in found]
    losses += model.fit(X[:18], Y[:18], **options).history["loss"]
    return {"losses": losses, "weights": [w.tolist() for w in model.get_weights()]}


def main():
    strategy = mirrored_cases.strategy()
    print(
        json.dumps(
            {
                case: [train(case, *alone()), train(case, *together(strategy))]
                for case in sys.argv[1:]
            }
        )
    )


@pytest.fixture(scope="module")
def results(request):
    return mirrored_cases.results(request, "case")


@pytest.mark.parametrize("case", some(CASES, FAST))
def test_two_replicas_equal_one_device(results, case):
    one, two = results[case]
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=5e-6)  # of float32 sums
    for a, b in zip(one["weights"], two["weights"], strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-6)


if __name__ == "__main__":
    main()
