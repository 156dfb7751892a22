"""Reasons to distrust a robust accuracy. Each check returns a sentence, or `None` if quiet."""

import itertools

import keras
import numpy as np
from keras import ops

from keras_pde import geometry
from keras_pde.attacks import PGD, IteratedAttack
from keras_pde.checks import bounds_text, limits
from keras_pde.threat import are_unit
from keras_pde.training import lagging

_SHARE = 0.02  # of images, by which a run may be worse than a weaker one
_PROBE = 100  # images on which the costly checks run
_FEW = 8  # images on which the uncompiled model runs
_UNDERFLOW = 87.0  # difference of logits at which exp leaves the normal numbers of float32


def heard(target, inputs, x, y, context, threat, runs, batch_size):
    """All alarms, and notes: what is no reason to distrust the numbers, but to read them with care.

    Args:
        target: the `Target`.
        inputs, y: what was evaluated.
        x, context: its parts (`Target.parts`).
        threat: norm and bounds.
        runs: (attack, robust accuracy) of each attack at a radius.
        batch_size: images at a time.

    Returns:
        Two tuples of sentences.
    """
    still = constant(target, x, context, batch_size)
    found = (
        random_outputs(target, x, context, batch_size),
        probabilities(target),
        zero_gradients(target, x, y, context, batch_size),
        lagging_statistics(target, inputs, y),
        grows_with_epsilon(runs),
        falls_with_fewer_steps(runs),
        None if still else survives_everything(target, inputs, x, y, threat, batch_size),
    )
    notes = (still, foreign_bounds(x, threat.bounds))
    return tuple(tuple(filter(None, sentences)) for sentences in (found, notes))


def constant(target, x, context, batch_size):
    """The model gives the same outputs at all images."""
    x, *context = (a[:_PROBE] for a in (x, *context))
    if len(x) < 2:
        return None
    outputs = target.outputs(x, context, batch_size)
    if np.ptp(outputs, axis=0).max() <= 1e-6 * (1 + np.abs(outputs).max()):
        return (
            f"the outputs are the same at all {len(x)} examples tried: this model does not look at "
            "them, and is robust for that reason where it is right"
        )


def random_outputs(target, x, context, batch_size):
    """The same images give different logits, compiled or called directly.

    On JAX a compiled model that is not trained repeats its noise, and only the call shows it.
    """
    probe, few = ([a[:count] for a in (x, *context)] for count in (_PROBE, _FEW))
    pairs = [[target.outputs(probe[0], probe[1:], batch_size) for _ in range(2)]]
    few = [ops.convert_to_tensor(a) for a in few]
    pairs.append([ops.convert_to_numpy(target.logits(few[0], few[1:])) for _ in range(2)])
    if any(np.max(np.abs(a - b)) > 1e-4 * (1 + np.max(np.abs(a))) for a, b in pairs):
        return (
            "the model's outputs are random: gradient attacks need the mean over the noise, and "
            "these numbers overstate robustness"
        )


def probabilities(target):
    """The outputs are probabilities, whose logarithm loses gradients where they saturate."""
    head = target.probabilities
    if head:
        formula = {"softmax": "log p", "sigmoid": "log(p / (1 - p))"}[head]
        return (
            f"the model returns probabilities: attacked through {formula}, which has no "
            f"gradient where they saturate; evaluate logits instead, for a dense {head} layer at "
            "the end by `model.layers[-1].activation = keras.activations.linear`"
        )


def zero_gradients(target, x, y, context, batch_size):
    """The cross-entropy has no gradient at a good part of the images, or one that is not finite.

    Where the probabilities of all other classes underflow, what is computed is rounding noise.
    """
    x, y, *context = (a[:_PROBE] for a in (x, y, *context))
    rule = target.success
    name = rule.best("ce")
    shown = "cross-entropy" if name == "ce" else f"loss {name!r}"
    gradients = target.gradients(x, y, rule.loss(name), context, batch_size)
    gradients = gradients.reshape(len(x), -1)
    broken = 100 * float(np.mean(~np.isfinite(gradients).all(axis=1)))
    if broken > 0:
        return (
            f"the input gradient of the {shown} is NaN or infinite at {broken:.0f} % of the "
            "images (a root, logarithm or quotient at 0?): gradient attacks fail there"
        )
    vanishes = np.all(gradients == 0, axis=1)
    if rule.classes:
        outputs = target.outputs(x, context, batch_size)
        rows = np.arange(len(x))
        label = outputs[rows, y].copy()
        outputs[rows, y] = -np.inf
        vanishes |= label - outputs.max(axis=1) > _UNDERFLOW
    share = float(np.mean(vanishes))
    if share > 0.05:
        return (
            f"the input gradient of the {shown} vanishes at {100 * share:.0f} % of the "
            "images (saturated or quantised somewhere): attacks with that loss see nothing there"
        )


def lagging_statistics(target, inputs, y):
    """The moving statistics of BatchNormalization are not those of the network that was trained."""
    found = lagging.outputs(target.perturbed, inputs)
    if found is None or "ce" not in target.success.losses:
        return None
    logits = (target.as_logits(ops.convert_to_tensor(z)) for z in found)
    few, loss = y[: len(found[0])], target.success.loss("ce")
    return lagging.verdict(*(float(ops.mean(loss(z, few, None))) for z in logits))


def foreign_bounds(x, bounds):
    """Epsilons are not in the usual units of images."""
    if x.ndim != 4:
        return None
    if bounds is None:
        return (
            "no bounds were given: perturbations may leave the range of valid images, and epsilons "
            "are in units of the data, not comparable with published ones"
        )
    if not are_unit(bounds):
        return (
            f"images lie in {bounds_text(bounds)}, not in [0, 1]: epsilons are in those units and "
            "not comparable with published ones"
        )


def grows_with_epsilon(runs):
    """One attack leaves more accuracy at a larger epsilon; `runs` are (attack, accuracy)."""
    for (near, before), (far, after) in itertools.permutations(_at_a_radius(runs), 2):
        # One step across a wide ball overshoots; only iterated attacks must be monotone.
        monotone = getattr(near, "steps", 1) > 1 and near.at(None) == far.at(None)
        if monotone and near.epsilon < far.epsilon and after > before + _SHARE:
            return (
                f"{near.label} leaves more accuracy at epsilon {far.epsilon:g} "
                f"({100 * after:.1f} %) than at {near.epsilon:g} ({100 * before:.1f} %): the "
                "attack does not converge or gradients mislead"
            )


def falls_with_fewer_steps(runs):
    """An attack with fewer steps, and no more restarts, fools more images than one with more."""
    for (few, left), (many, left_by_many) in itertools.permutations(_at_a_radius(runs), 2):
        comparable = (
            isinstance(few, type(many))
            and few.epsilon == many.epsilon
            and few.loss == many.loss
            and getattr(few, "steps", 1) < getattr(many, "steps", 1)
            and few.restarts <= many.restarts
        )
        if comparable and left < left_by_many - _SHARE:
            return (
                f"{few.label} leaves less accuracy ({100 * left:.1f} %) than {many.label} "
                f"({100 * left_by_many:.1f} %) at epsilon {few.epsilon:g}: gradients mislead "
                "(masking), expect stronger attacks to win"
            )


def _at_a_radius(runs):
    """The runs of iterated attacks; those that look for distances are judged by nobody here."""
    return [
        (attack, accuracy)
        for attack, accuracy in runs
        if isinstance(attack, IteratedAttack) and not attack.minimal
    ]


def survives_everything(target, inputs, x, y, threat, batch_size):
    """Accuracy is left at a radius that reaches every image."""
    low, high = limits(threat.bounds or (x.min(), x.max()))
    radius = geometry.get(threat.norm).diameter(high - low, x.shape[1:])
    inputs, y = keras.tree.map_structure(lambda array: array[:_PROBE], (inputs, y))
    if radius == 0:  # no bounds, and one image
        return None
    loss = target.success.best("ce")
    attack = PGD(
        threat.norm, radius, steps=20, step_size=radius / 10, loss=loss, bounds=threat.bounds
    )
    left = attack(target, inputs, y, batch_size=batch_size).robust_accuracy
    if left > 0.1:
        return (
            f"PGD leaves {100 * left:.0f} % accuracy at epsilon {radius:g}, where every image "
            "can be reached: the attack fails on this model, whatever its robustness"
        )
