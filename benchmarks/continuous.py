"""Continuous blocks: against a hand-written residual stage, torchdiffeq and diffrax.

- A training step of an Euler `ContinuousBlock` with K = 8 against the same eight residual units,
  built one by one: 16 channels of 32x32 pixels, and 128 of 8x8; batch 32, forward and gradient.
- Sixteen RK4 steps of one convolutional field (conv, tanh, conv; 16 channels, 32x32, batch 32),
  forward and gradient, against torchdiffeq's `rk4` with backpropagation and PyTorch's
  `channels_last`, which is its faster layout; and of one dense field (64 to 256 to 64 units, batch
  128) against torchdiffeq and diffrax (constant steps, jit).
- How long tracing takes with 16, 64 and 256 RK4 steps.
- Training steps of `continuous_net` (width 8, 28x28, batch 128, Adam) with 1, 2, 4 and 8 Euler
  steps, and what part of them the schedule of depth_training.py saves: refined after 3, 5 and 7
  twelfths.

All on `--threads` threads. A peer that is not installed is left out.
"""

import gc
import os
import statistics
import time

from common import interleaved, parser, ratio_text, report

STEPS, BATCH = 16, 32
STAGES = {"16 channels, 32x32": (16, 32), "128 channels, 8x8": (128, 8)}


def residual_unit(channels):
    import keras
    from keras import layers

    from keras_pde.layers import batch_norm

    parts = []
    for _ in range(2):
        conv = layers.Conv2D(channels, 3, padding="same", use_bias=False)
        parts += [batch_norm(), layers.ReLU(), conv]
    return keras.Sequential(parts)


def stages(channels, size):
    """name -> function of one step: the block, and the stack of units."""
    import keras

    from keras_pde.layers import ContinuousBlock

    inputs = keras.Input((size, size, channels))
    y = inputs
    for _ in range(8):
        y = keras.layers.Add()([y, residual_unit(channels)(y)])
    block = ContinuousBlock(residual_unit(channels), steps=8, scheme="euler", horizon=8)
    return {
        "ContinuousBlock": stepper(keras.Model(inputs, block(inputs))),
        "residual units": stepper(keras.Model(inputs, y)),
    }


def stepper(model):
    """Forward pass, gradient and moving statistics of one batch, compiled."""
    import tensorflow as tf

    x = tf.random.stateless_normal((BATCH, *model.input_shape[1:]), (0, 0))

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True)))
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    return lambda: step()[0].numpy()


def convolutional_field():
    import keras
    from keras import layers

    return keras.Sequential(
        [
            layers.Conv2D(16, 3, padding="same", use_bias=False, activation="tanh"),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
        ]
    )


def dense_field():
    import keras
    from keras import layers

    return keras.Sequential([layers.Dense(256, activation="tanh"), layers.Dense(64)])


def ours(field, shape):
    """Sixteen RK4 steps of constant weights."""
    step, x = compiled(field, shape, STEPS)
    return lambda: step(x)[0].numpy()


def compiled(field, shape, steps):
    """Gradients by the state and the weights, as a `tf.function`, and a state."""
    import keras
    import tensorflow as tf

    from keras_pde.layers import ContinuousBlock

    inputs = keras.Input(shape[1:])
    block = ContinuousBlock(field, steps, "rk4", num_basis=1)
    model = keras.Model(inputs, block(inputs))

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_mean(tf.square(model(x, training=True)))
        return tape.gradient(loss, [x, *(v.value for v in model.trainable_variables)])

    return step, tf.random.stateless_normal(shape, (0, 0))


def torchdiffeq(layers, shape):
    """`odeint(method="rk4")` with as many equal steps, by backpropagation."""
    import torch
    from torchdiffeq import odeint

    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    field = torch.nn.Sequential(*layers(torch.nn)).to(memory_format=layout)
    x = torch.randn(shape).to(memory_format=layout).requires_grad_()
    ends, options = torch.tensor([0.0, 1.0]), {"step_size": 1 / STEPS}

    def step():
        y = odeint(lambda t, y: field(y), x, ends, method="rk4", options=options)[-1]
        gradients = torch.autograd.grad(y.square().mean(), [x, *field.parameters()])
        return gradients[0].numpy()

    return step


def torch_convolutional(nn):
    convs = [nn.Conv2d(16, 16, 3, padding="same", bias=False) for _ in range(2)]
    return convs[0], nn.Tanh(), convs[1]


def torch_dense(nn):
    return nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 64)


def diffrax_dense(shape, adjoint):
    """`diffeqsolve` with the classical tableau, for which diffrax has no class of its own.

    Args:
        shape: of the state.
        adjoint: name of diffrax' class. `RecursiveCheckpointAdjoint`, its default, computes part of
            the steps again; `DirectAdjoint` keeps all of them, as our `memory="store"` does.
    """
    import diffrax
    import jax
    import jax.numpy as jnp
    import numpy as np

    class RK4(diffrax.AbstractERK):
        tableau = diffrax.ButcherTableau(
            a_lower=(np.array([1 / 2]), np.array([0, 1 / 2]), np.array([0.0, 0, 1])),
            b_sol=np.array([1 / 6, 1 / 3, 1 / 3, 1 / 6]),
            b_error=np.zeros(4),
            c=np.array([1 / 2, 1 / 2, 1]),
        )
        interpolation_cls = diffrax.ThirdOrderHermitePolynomialInterpolation.from_k

        def order(self, terms):
            return 4

    keys = jax.random.split(jax.random.PRNGKey(0), 3)
    first, second = (jax.random.normal(key, (64, 256)) / 8 for key in keys[:2])
    weights = (first, jnp.zeros(256), second.T / 2, jnp.zeros(64))
    x = jax.random.normal(keys[2], shape)

    def field(t, y, weights):
        first, a, second, b = weights
        return jnp.tanh(y @ first + a) @ second + b

    def loss(x, weights):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            RK4(),
            t0=0.0,
            t1=1.0,
            dt0=1 / STEPS,
            y0=x,
            args=weights,
            stepsize_controller=diffrax.ConstantStepSize(),
            adjoint=getattr(diffrax, adjoint)(),
            max_steps=STEPS,
        )
        return jnp.mean(jnp.square(solution.ys[-1]))

    step = jax.jit(jax.grad(loss, argnums=(0, 1)))
    return lambda: step(x, weights)[0].block_until_ready()


def tracing(steps):
    """Seconds for the graph of the forward pass and the gradient, convolutional field."""
    step, x = compiled(convolutional_field(), (BATCH, 32, 32, 16), steps)
    gc.collect()  # what others have left would be collected in between
    began = time.perf_counter()
    step.get_concrete_function(x)
    return time.perf_counter() - began


def training_steps():
    """Number of Euler steps a block -> function of one training step of the whole network."""
    import keras
    import numpy as np
    from common import cross_entropy

    from keras_pde.models import continuous_net

    x, y = np.random.default_rng(0).random((128, 28, 28, 1), "float32"), np.zeros(128, "int32")

    def step(steps):
        model = continuous_net((28, 28, 1), width=8, steps=steps, horizon=1, stitch=1 / 8)
        model.compile(keras.optimizers.Adam(), cross_entropy(), metrics=["accuracy"])
        return lambda: model.train_on_batch(x, y)

    return {f"{steps} Euler steps": step(steps) for steps in (1, 2, 4, 8)}


def saved_by_refining(found):
    """Share of the time of training steps, by their minimum and by the median of the rounds."""
    epochs = (3, 2, 2, 5)  # of twelve, at each depth

    def saving(times):
        return 1 - sum(n * t for n, t in zip(epochs, times, strict=True)) / (12 * times[-1])

    rounds = [saving(times) for times in zip(*found.values(), strict=True)]
    return f"{saving([min(v) for v in found.values()]):.1%} ({statistics.median(rounds):.1%})"


def installed(*names):
    import importlib.util

    return all(importlib.util.find_spec(name) for name in names)


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--threads", type=int, default=1)
    options = arguments.parse_args()
    # Before TensorFlow and JAX start.
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(options.threads)
    os.environ["TF_NUM_INTEROP_THREADS"] = str(options.threads)
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=" + str(options.threads > 1).lower()
    rows, seconds = [], {}

    def compare(what, callables, pairs):
        found = interleaved(callables, options.rounds)
        seconds.update({f"{what}: {name}": times for name, times in found.items()})
        for numerator, denominator, target in pairs:
            rows.append(
                {
                    "what": f"{what}: {numerator} / {denominator}",
                    "target": target,
                    "measured": ratio_text(found, numerator, denominator),
                }
            )

    for name, (channels, size) in STAGES.items():
        pairs = [("ContinuousBlock", "residual units", "<= 1.05")]
        compare(f"training step, {name}", stages(channels, size), pairs)
    convolutional = {"ours": ours(convolutional_field(), (BATCH, 32, 32, 16))}
    dense = {"ours": ours(dense_field(), (128, 64))}
    if installed("torch", "torchdiffeq"):
        import torch

        torch.set_num_threads(options.threads)
        convolutional["torchdiffeq"] = torchdiffeq(torch_convolutional, (BATCH, 16, 32, 32))
        dense["torchdiffeq"] = torchdiffeq(torch_dense, (128, 64))
    if installed("jax", "diffrax"):
        for adjoint in ("RecursiveCheckpointAdjoint", "DirectAdjoint"):
            dense[f"diffrax, {adjoint}"] = diffrax_dense((128, 64), adjoint)
    peers = [(peer, "ours", ">= 1.4") for peer in convolutional if peer != "ours"]
    compare(f"{STEPS} RK4 steps, convolutional field", convolutional, peers)
    peers = [(peer, "ours", ">= 1.2") for peer in dense if peer != "ours"]
    compare(f"{STEPS} RK4 steps, dense field", dense, peers)
    found = interleaved(training_steps(), options.rounds, repeats=4)
    seconds.update({f"training step, {name}": times for name, times in found.items()})
    evaluations = 1 - (3 * 1 + 2 * 2 + 2 * 4 + 5 * 8) / (12 * 8)
    rows.append(
        {
            "what": "1 -> 8 Euler steps after 3, 5 and 7 twelfths: saved of the training steps' "
            "time, of all but tracing",
            "target": f">= 25 %; evaluations of the rates predict {evaluations:.1%}",
            "measured": saved_by_refining(found),
        }
    )
    for steps in (16, 64, 256):
        rows.append(
            {
                "what": f"tracing of {steps} RK4 steps, convolutional field",
                "target": "< 5 s",
                "measured": f"{tracing(steps):.2f} s",
            }
        )
    notes = [
        f"{options.threads} thread(s), batch {BATCH} (128 for dense fields), {options.rounds} "
        "rounds; forward pass and gradient, without an optimizer."
    ]
    name = "continuous" if options.threads == 1 else f"continuous_{options.threads}_threads"
    report(name, rows, seconds, options, notes)


if __name__ == "__main__":
    main()
