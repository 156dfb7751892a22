"""Reasons to distrust a robust accuracy. Each check returns a sentence, or `None` if it is quiet."""

import math

import numpy as np

from keras_pde.attacks import PGD, losses

_SHARE = 0.02  # of images, by which a run may be worse than a weaker one
_PROBE = 100  # images on which the costly checks run


def random_outputs(target, x, batch_size):
    """The same images give different logits."""
    first, second = (target.outputs(x[:_PROBE], batch_size) for _ in range(2))
    if np.max(np.abs(first - second)) > 1e-4 * (1 + np.max(np.abs(first))):
        return (
            "the model's outputs are random: gradient attacks need the mean over the noise, and "
            "these numbers overstate robustness"
        )


def probabilities(target):
    """The outputs are probabilities, whose logarithm loses gradients where they saturate."""
    if target.probabilities:
        return (
            "the model returns probabilities: attacked through their logarithm, which has no "
            "gradient where they saturate; remove the softmax and evaluate logits"
        )


def zero_gradients(target, x, y, batch_size):
    """The cross-entropy has no gradient at a good part of the images."""
    x, y = x[:_PROBE], y[:_PROBE]
    gradients = target.gradients(x, y, losses.cross_entropy, batch_size)
    share = float(np.mean(np.all(gradients.reshape(len(x), -1) == 0, axis=1)))
    if share > 0.05:
        return (
            f"the input gradient of the cross-entropy is exactly zero at {100 * share:.0f} % of "
            "the images (saturated or quantised somewhere): gradient attacks see nothing there"
        )


def foreign_bounds(bounds):
    """Epsilons are not in the usual units."""
    if tuple(bounds) != (0.0, 1.0):
        return (
            f"images lie in {tuple(bounds)}, not in [0, 1]: epsilons are in those units and not "
            "comparable with published ones"
        )


def grows_with_epsilon(runs):
    """One attack leaves more accuracy at a larger epsilon."""
    for label in dict.fromkeys(run.attack for run in runs):
        series = sorted(
            (run.epsilon, run.robust_accuracy)
            for run in runs
            if run.attack == label and run.epsilon is not None
        )
        for (e1, a1), (e2, a2) in zip(series, series[1:], strict=False):
            # One step across a wide ball overshoots; only iterated attacks must be monotone.
            if a2 > a1 + _SHARE and not label.startswith("FGSM"):
                return (
                    f"{label} leaves more accuracy at epsilon {e2:g} ({100 * a2:.1f} %) than at "
                    f"{e1:g} ({100 * a1:.1f} %): the attack does not converge or gradients mislead"
                )


def falls_with_fewer_steps(runs):
    """An attack with fewer steps fools more images than one with more."""
    for few in runs:
        for many in runs:
            comparable = (
                few.epsilon is not None
                and few.epsilon == many.epsilon
                and few.config["loss"] == many.config["loss"]
                and few.config.get("steps", 1) < many.config.get("steps", 1)
            )
            if comparable and few.robust_accuracy < many.robust_accuracy - _SHARE:
                return (
                    f"{few.attack} leaves less accuracy ({100 * few.robust_accuracy:.1f} %) than "
                    f"{many.attack} ({100 * many.robust_accuracy:.1f} %) at epsilon "
                    f"{few.epsilon:g}: gradients mislead (masking), expect stronger attacks to win"
                )


def survives_everything(target, x, y, norm, bounds, batch_size):
    """Accuracy is left at a radius that reaches every image."""
    x, y = x[:_PROBE], y[:_PROBE]
    size = math.prod(x.shape[1:])
    width = bounds[1] - bounds[0]
    radius = width * {"linf": 1.0, "l2": math.sqrt(size), "l1": float(size)}[norm]
    attack = PGD(norm, radius, steps=20, step_size=radius / 10, random_start=True, bounds=bounds)
    left = attack(target, x, y, batch_size=batch_size).robust_accuracy
    if left > 0.1:
        return (
            f"PGD leaves {100 * left:.0f} % accuracy at epsilon {radius:g}, where every image "
            "can be reached: the attack fails on this model, whatever its robustness"
        )
