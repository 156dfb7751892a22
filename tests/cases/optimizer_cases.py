"""Small problems, steps with the loss in sight, and what TensorFlow makes of every optimizer.

`python tests/cases/optimizer_cases.py` rewrites the golden numbers.
"""

import json
import pathlib

import keras
import numpy as np
from keras import ops

from keras_pde import registry

BACKEND = keras.backend.backend()
TENSORFLOW = BACKEND == "tensorflow"
ENTRIES = {entry.name: entry for entry in registry.entries("optimizer")}
GOLDEN = pathlib.Path(__file__).with_name("golden_optimizers.json")


def arrays(values):
    return [np.array(ops.convert_to_numpy(v)) for v in values]


def assert_equal(first, second, **tolerances):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, **tolerances)


def build(entry, **changes):
    return entry.component(**{**entry.example, **changes})


def quiet(entry, **changes):
    """The example without noise, whose bits depend on the backend."""
    noise = {"temperature": 0.0} if "temperature" in entry.example else {}
    return build(entry, **noise, **changes)


def eager(entry, **changes):
    """The example without noise, around an inner optimizer that makes larger steps."""
    inner = (
        {"inner_optimizer": keras.optimizers.SGD(0.05)}
        if "inner_optimizer" in entry.example
        else {}
    )
    return quiet(entry, **inner, **changes)


def averaging(entry):
    """What makes an example average its weights, if it can: arguments."""
    return {} if "inner_optimizer" in entry.example else {"use_ema": True, "ema_momentum": 0.5}


def variables(*values, dtype="float32"):
    return [keras.Variable(np.array(value), dtype=dtype) for value in values]


def step(optimizer, weights, loss, gradients):
    """One step, as a training loop makes it."""
    optimizer.scale_loss(ops.convert_to_tensor(loss, "float32"))
    pairs = zip(gradients, weights, strict=True)
    optimizer.apply([ops.convert_to_tensor(g, w.dtype) for g, w in pairs], weights)


def minimise(optimizer, problem, weights, steps):
    """The losses of that many steps; `problem` gives (loss, gradients) of NumPy arrays."""
    losses = []
    make = _compiled(optimizer, weights) if steps > 50 and TENSORFLOW else step
    for _ in range(steps):
        loss, gradients = problem(*(ops.convert_to_numpy(w).astype("float64") for w in weights))
        losses.append(float(loss))
        make(optimizer, weights, loss, gradients)
    return losses


def _compiled(optimizer, weights):
    """`step` as a graph: one of many eager ones takes longer than its tracing."""
    import tensorflow as tf

    optimizer.build(weights)
    dtypes = [w.dtype for w in weights]
    graph = tf.function(lambda loss, gradients: step(optimizer, weights, loss, gradients))

    def run(optimizer, weights, loss, gradients):
        pairs = zip(gradients, dtypes, strict=True)
        graph(tf.constant(loss, "float32"), [tf.constant(g, dtype) for g, dtype in pairs])

    return run


def parabola(w, v):
    """Curvatures 1 and 4, in two variables."""
    return (np.sum(w**2) + 4 * np.sum((v - 1) ** 2)) / 2, [w, 4 * (v - 1)]


def rosenbrock(w):
    """A mild valley: curvatures 0.09 and 2.9 at the minimum."""
    x, y = w
    slope = np.array([-2 * (1 - x) - 4 * x * (y - x**2), 2 * (y - x**2)])
    return ((1 - x) ** 2 + (y - x**2) ** 2) / 4, [slope / 4]


def matrix(W):
    A = np.arange(6).reshape(3, 2) / 3 - 0.5
    residual = A @ W - A @ np.array([[1.0, -1.0], [0.5, 2.0]])
    return np.sum(residual**2) / 2, [A.T @ residual]


STARTS = {
    parabola: ([1.0, -2.0], [[0.5, 3.0]]),
    rosenbrock: ([-0.5, 1.0],),
    matrix: (np.zeros((2, 2)),),
}


def trajectory(entry):
    """The weights after each of seven steps on the parabola."""
    optimizer, weights = quiet(entry), variables(*STARTS[parabola])
    found = []
    for _ in range(7):
        minimise(optimizer, parabola, weights, 1)
        found.append(np.concatenate([ops.convert_to_numpy(w).ravel() for w in weights]).tolist())
    return found


def main():
    found = {entry.name: trajectory(entry) for entry in registry.entries("optimizer")}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
