"""How fast SALR approaches the minimum of a noisy quadratic, next to SGD with tuned schedules.

f(w) = E |w - z|^2_A / 2, z ~ N(0, I / d), in d = 20 dimensions, curvatures 0.1 to 1: each batch has
another minimum, so no rate that stays converges. q = |w - w*|^2 / 2. The theorem of SALR is about
the true f - f* and E |g|^2; in a training there are running means of what batches say. Both are
run with f* known; and SALR as it comes, with target levels and averaged weights. The rates of SGD
are chosen by the last q of other chains; nothing of SALR is chosen.

Every chain is a run of the optimizers themselves. The figure is docs/salr_rate.png.
"""

import math

import keras
import numpy as np
import tensorflow as tf
from common import HERE, parser, report, stepped

from keras_pde import optimizers

FIGURE = HERE.parent / "docs" / "salr_rate.png"
DIMENSION, START = 20, 3.0
CURVATURES = np.geomspace(0.1, 1, DIMENSION).astype("float32")
LOWEST = float(CURVATURES.sum()) / (2 * DIMENSION)
RATES = (0.01, 0.03, 0.1, 0.3)


def sgd(rate, steps):
    return keras.optimizers.SGD(stepped(rate, steps))


def constant(rate, steps):
    return keras.optimizers.SGD(rate)


def salr(decay, steps):
    square = max(decay, 0.99)
    decays = {"loss_decay": decay, "square_decay": square}
    return optimizers.SALR(1.0, LOWEST, **decays, momentum=0.0, use_ema=False)


def as_it_comes(_, steps):
    return optimizers.SALR()


# name -> (function of a number and the steps, numbers to choose from, whether the loss is the true)
METHODS = {
    "SALR, true loss": (salr, (0.0,), True),
    "SALR, running mean over 10 losses": (salr, (0.9,), False),
    "SALR, running mean over 1000 losses": (salr, (0.999,), False),
    "SALR as it comes": (as_it_comes, (0.0,), False),
    "SGD, steps, tuned": (sgd, RATES, False),
    "SGD, constant rate, tuned": (constant, RATES, False),
}


def runner(optimizer, exact, steps):
    """Function from a seed to q at the start and after each step, of averages if there are any."""
    w = keras.Variable(np.full(DIMENSION, START, "float32"))
    optimizer.build([w])
    shown = optimizer._model_variables_moving_average[0] if optimizer.use_ema else w
    start = [(v, keras.ops.convert_to_numpy(v)) for v in (w, *optimizer.variables)]

    def q(variable):
        return tf.reduce_sum(tf.convert_to_tensor(variable) ** 2) / 2

    @tf.function
    def chain(seed):
        path = tf.TensorArray("float32", steps + 1).write(0, q(w))
        for k in tf.range(steps):
            x = tf.convert_to_tensor(w)
            z = tf.random.stateless_normal((DIMENSION,), [seed, k]) / math.sqrt(DIMENSION)
            loss = tf.reduce_sum(CURVATURES * (x - z) ** 2) / 2
            true = tf.reduce_sum(CURVATURES * x**2) / 2 + LOWEST
            optimizer.scale_loss(true if exact else loss)
            optimizer.apply([CURVATURES * (x - z)], [w])
            path = path.write(k + 1, q(shown))
        return path.stack()

    def run(seed):
        for variable, value in start:
            variable.assign(value)
        return chain(tf.constant(seed)).numpy()

    return run


def draw(means):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, q in means.items():
        axes.loglog(np.arange(1, len(q)), q[1:], label=name)
    k = np.array([100.0, len(q) - 1])
    axes.loglog(k, 3 * means["SALR, true loss"][100] * 100 / k, "k:", label="1 / k")
    axes.set(xlabel="steps", ylabel="|w - w*|^2 / 2, mean", title="A noisy quadratic")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(FIGURE, dpi=130)


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--steps", type=int, default=10_000)
    arguments.add_argument("--chains", type=int, default=32)
    options = arguments.parse_args()
    steps, rows, means = options.steps, [], {}
    for name, (make, numbers, exact) in METHODS.items():
        runs = {n: runner(make(n, steps), exact, steps) for n in numbers}
        trials = {
            n: np.mean([run(1000 + i)[-1] for i in range(8)]) if len(runs) > 1 else 0
            for n, run in runs.items()
        }
        best = min(trials, key=trials.get)
        q = np.array([runs[best](i) for i in range(options.chains)])
        means[name] = q.mean(0)
        print(name, best, means[name][[100, 1000, -1]], flush=True)
        error = q[:, -1].std(ddof=1) / math.sqrt(len(q))
        slope = math.log10(means[name][-1] / means[name][steps // 10])
        chosen = f" ({best:g})" if len(numbers) > 1 else ""
        rows.append(
            {
                "what": f"{name}{chosen}: slope of log q against log k over the last decade",
                "target": "-1" if exact else "-",
                "measured": f"{slope:.2f}; q = {means[name][-1]:.2g} ± {1.96 * error:.1g} after "
                f"{steps:,} steps",
            }
        )
    draw(means)
    notes = [f"{options.chains} chains from q = {DIMENSION * START**2 / 2:g}; seeds 0, 1, ..."]
    report("salr_rate", rows, {}, options, notes)


if __name__ == "__main__":
    main()
