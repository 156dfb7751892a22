"""Memory of a gradient through a deep block, by memory mode and number of steps.

Per backend what it can say: on JAX the temporary memory of the compiled step (XLA's own analysis),
on TensorFlow how much the process grows, each measurement in a process of its own. The field is
that of a `HamiltonianBlock` with dense halves, 64 steps and more in a compiled loop, which every
mode can run. Draws docs/depth_memory_BACKEND.png.

    KERAS_BACKEND=jax python benchmarks/depth_memory.py
"""

import json
import resource
import subprocess
import sys
from pathlib import Path

from common import parser, report

MODES = ("store", "remat", "checkpoint", "reversible")
DOCS = Path(__file__).parents[1] / "docs"


def measured(memory, steps, channels, batch):
    """Megabytes that the gradient of one batch needs."""
    import keras

    from keras_pde.layers import HamiltonianBlock

    inputs = keras.Input((channels,))
    block = HamiltonianBlock(
        steps, num_basis=4, horizon=1.0, memory=memory, activation="tanh", unroll=False, seed=0
    )
    model = keras.Model(inputs, block(inputs))
    run = {"jax": _jax, "tensorflow": _tensorflow}[keras.backend.backend()]
    return run(model, (batch, channels))


def _tensorflow(model, shape):
    import tensorflow as tf

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True)))
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    gradient.get_concrete_function(tf.TensorSpec(shape))
    x = tf.ones(shape)
    model(x)
    before = _peak()
    gradient(x)
    return _peak() - before


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _jax(model, shape):
    import jax
    import jax.numpy as jnp

    fixed = [v.value for v in model.non_trainable_variables]

    def loss(weights, x):
        y, _ = model.stateless_call(weights, fixed, x, training=True)
        return jnp.mean(jnp.square(y))

    weights = [v.value for v in model.trainable_variables]
    compiled = jax.jit(jax.grad(loss)).lower(weights, jnp.ones(shape)).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


def alone(memory, steps, options):
    """The measurement in a process of its own."""
    command = [sys.executable, __file__, "--one", memory, "--steps", str(steps)]
    command += ["--channels", str(options.channels), "--batch", str(options.batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def draw(found, title):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.add_subplot()
    for memory, row in found.items():
        axes.loglog(list(row), [max(v, 0.1) for v in row.values()], "o-", label=memory)
    axes.set(xlabel="steps", ylabel="MB for the gradient of one batch", title=title)
    axes.legend()
    figure.savefig(DOCS / f"depth_memory_{title}.png", dpi=130)


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--one", choices=MODES, help="measure this mode and print a number")
    arguments.add_argument("--steps", type=int, nargs="+", default=[64, 256, 1024])
    arguments.add_argument("--channels", type=int, default=128)
    arguments.add_argument("--batch", type=int, default=2048)
    options = arguments.parse_args()
    if options.one:
        print(json.dumps(measured(options.one, options.steps[0], options.channels, options.batch)))
        return
    import keras

    backend = keras.backend.backend()
    found = {m: {n: alone(m, n, options) for n in options.steps} for m in MODES}
    rows = []
    for memory, row in found.items():
        sizes = ", ".join(f"{n} steps: {size:.1f} MB" for n, size in row.items())
        target = {"reversible": "flat", "checkpoint": "square root"}.get(memory, "-")
        rows.append({"what": f"{backend}, memory={memory!r}", "target": target, "measured": sizes})
    state = 4 * options.batch * options.channels / 2**20
    notes = [
        f"`HamiltonianBlock`, batch {options.batch}, {options.channels} channels: one state is "
        f"{state:.1f} MB. K = 4, float32, a compiled loop."
    ]
    draw(found, backend)
    report(f"depth_memory_{backend}", rows, {}, options, notes)


if __name__ == "__main__":
    main()
