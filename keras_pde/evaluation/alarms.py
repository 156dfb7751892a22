"""Reasons to distrust a robust accuracy. Each check returns a sentence, or `None` if quiet."""

import numpy as np
from keras import ops

from keras_pde import geometry
from keras_pde.attacks import PGD, losses
from keras_pde.checks import bounds_text, limits

_SHARE = 0.02  # of images, by which a run may be worse than a weaker one
_PROBE = 100  # images on which the costly checks run
_FEW = 8  # images on which the uncompiled model runs
_UNDERFLOW = 87.0  # difference of logits at which exp leaves the normal numbers of float32


def random_outputs(target, x, batch_size):
    """The same images give different logits, compiled or called directly.

    On JAX a compiled model that is not trained repeats its noise, and only the call shows it.
    """
    few = x[:_FEW]
    pairs = [[target.outputs(x[:_PROBE], batch_size) for _ in range(2)]]
    pairs.append([ops.convert_to_numpy(target.model(few, training=False)) for _ in range(2)])
    if any(np.max(np.abs(a - b)) > 1e-4 * (1 + np.max(np.abs(a))) for a, b in pairs):
        return (
            "the model's outputs are random: gradient attacks need the mean over the noise, and "
            "these numbers overstate robustness"
        )


def probabilities(target):
    """The outputs are probabilities, whose logarithm loses gradients where they saturate."""
    if target.probabilities:
        return (
            "the model returns probabilities: attacked through their logarithm, which has no "
            "gradient where they saturate; evaluate logits instead, for a dense softmax layer at "
            "the end by `model.layers[-1].activation = keras.activations.linear`"
        )


def zero_gradients(target, x, y, batch_size):
    """The cross-entropy has no gradient at a good part of the images, or one that is not finite.

    Where the probabilities of all other classes underflow, what is computed is rounding noise.
    """
    x, y = x[:_PROBE], y[:_PROBE]
    gradients = target.gradients(x, y, losses.cross_entropy, batch_size)
    gradients = gradients.reshape(len(x), -1)
    broken = 100 * float(np.mean(~np.isfinite(gradients).all(axis=1)))
    if broken > 0:
        return (
            f"the input gradient of the cross-entropy is NaN or infinite at {broken:.0f} % of the "
            "images (a root, logarithm or quotient at 0?): gradient attacks fail there"
        )
    outputs = target.outputs(x, batch_size)
    rows = np.arange(len(x))
    label = outputs[rows, y].copy()
    outputs[rows, y] = -np.inf
    underflow = label - outputs.max(axis=1) > _UNDERFLOW
    share = float(np.mean(np.all(gradients == 0, axis=1) | underflow))
    if share > 0.05:
        return (
            f"the input gradient of the cross-entropy vanishes at {100 * share:.0f} % of the "
            "images (saturated or quantised somewhere): attacks with that loss see nothing there"
        )


def foreign_bounds(bounds):
    """Epsilons are not in the usual units."""
    if bounds is None:
        return (
            "no bounds were given: perturbations may leave the range of valid images, and epsilons "
            "are in units of the data, not comparable with published ones"
        )
    if bounds != (0.0, 1.0):
        return (
            f"images lie in {bounds_text(bounds)}, not in [0, 1]: epsilons are in those units and "
            "not comparable with published ones"
        )


def grows_with_epsilon(runs):
    """One attack leaves more accuracy at a larger epsilon."""
    for near in runs:
        for far in runs:
            same = {**near.config, "epsilon": None} == {**far.config, "epsilon": None}
            # One step across a wide ball overshoots; only iterated attacks must be monotone.
            if not same or near.epsilon is None or near.config["class"] == "FGSM":
                continue
            a1, a2 = near.robust_accuracy, far.robust_accuracy
            if near.epsilon < far.epsilon and a2 > a1 + _SHARE:
                return (
                    f"{near.attack} leaves more accuracy at epsilon {far.epsilon:g} "
                    f"({100 * a2:.1f} %) than at {near.epsilon:g} ({100 * a1:.1f} %): the attack "
                    "does not converge or gradients mislead"
                )


def falls_with_fewer_steps(runs):
    """An attack with fewer steps, and no more restarts, fools more images than one with more."""
    for few in runs:
        for many in runs:
            comparable = (
                few.epsilon is not None
                and few.epsilon == many.epsilon
                and few.config["class"] in ("FGSM", many.config["class"])
                and few.config.get("loss") == many.config.get("loss")
                and few.config.get("steps", 1) < many.config.get("steps", 1)
                and few.config.get("restarts", 1) <= many.config.get("restarts", 1)
            )
            if comparable and few.robust_accuracy < many.robust_accuracy - _SHARE:
                return (
                    f"{few.attack} leaves less accuracy ({100 * few.robust_accuracy:.1f} %) than "
                    f"{many.attack} ({100 * many.robust_accuracy:.1f} %) at epsilon "
                    f"{few.epsilon:g}: gradients mislead (masking), expect stronger attacks to win"
                )


def survives_everything(target, x, y, norm, bounds, batch_size):
    """Accuracy is left at a radius that reaches every image."""
    low, high = limits(bounds or (x.min(), x.max()))
    radius = geometry.get(norm).diameter(high - low, x.shape[1:])
    x, y = x[:_PROBE], y[:_PROBE]
    # A threat model stays below the radius that reaches everything.
    attack = PGD(norm, (1 - 1e-6) * radius, steps=20, step_size=radius / 10, bounds=bounds)
    left = attack(target, x, y, batch_size=batch_size).robust_accuracy
    if left > 0.1:
        return (
            f"PGD leaves {100 * left:.0f} % accuracy at epsilon {radius:g}, where every image "
            "can be reached: the attack fails on this model, whatever its robustness"
        )
