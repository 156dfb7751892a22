import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from keras_pde import environment
from keras_pde.attacks import FGSM, PGD, Attack, MinimalDistance, Target
from keras_pde.attacks import success as rules
from keras_pde.attacks.perturbed import Perturbed
from keras_pde.checks import check_count, check_images
from keras_pde.data.examples import labelled
from keras_pde.data.own import plain_labels
from keras_pde.evaluation import alarms, corruption
from keras_pde.evaluation.joined import joined
from keras_pde.evaluation.report import AttackRun, Report
from keras_pde.text import progress_bar
from keras_pde.threat import Threat


def default_attacks(
    norm: str, bounds: Any = (0.0, 1.0), seed: int = 0, success: Any = None
) -> list[Attack]:
    """The attacks of `evaluate`: FGSM as a check, PGD on two losses, and minimal distances."""
    # In l1 a step moves one pixel, so that few steps leave many images with nothing found.
    steps = 40 if Threat(norm).norm == "l1" else 10
    rule = rules.get(success)
    first, second = rule.best("ce"), rule.best("dlr", "margin")
    tried = [(first, 1), (second, 2)] if first != second else [(first, 3)]
    return [
        FGSM(norm, loss=first, bounds=bounds),
        *(
            PGD(norm, steps=40, loss=loss, restarts=restarts, bounds=bounds, seed=seed + i)
            for i, (loss, restarts) in enumerate(tried)
        ),
        MinimalDistance(norm, steps=steps, loss=rule.best("margin"), bounds=bounds),
    ]


def evaluate(
    model: keras.Model | Target,
    x: ArrayLike,
    y: ArrayLike | None = None,
    *,
    norm: str = "linf",
    epsilons: Sequence[float | str] = (),
    attacks: Sequence[Attack] | None = None,
    bounds: Any = (0.0, 1.0),
    name: str | None = None,
    batch_size: int = 128,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | bool | None = None,
    at: str | None = None,
    perturb: str | int | None = None,
    output: str | int | None = None,
    success: str | Callable | None = None,
    noise: Sequence[tuple[str, float]] = (),
) -> Report:
    """Measures how robust a model is, and how far to trust the measurement.

    Every attack runs on all images at every epsilon. An image counts as robust at epsilon if it
    is classified correctly and no attack, at any radius, found a perturbation of length epsilon or
    less. That is an upper bound: a stronger attack may find more.

    Args:
        model: Keras model of logits, or a `Target` of it.
        x: images `(n, ...)`, or a dataset (`tf.data`, any iterable of batches: tuples of images and
            labels, or dicts of "image" and "label"), whose batches may have several shapes.
        y: labels, integers or one-hot; none with a dataset.
        norm: `"l1" | "l2" | "linf"`, norm of the perturbations.
        epsilons: radii at which to measure, in the units of the images: numbers, or "8/255".
        attacks: attacks to run, in this norm and with these bounds; each of `epsilons` takes the
            place of their own epsilon, if they have one. Default `default_attacks(norm)`.
        bounds: range of valid images, as in `keras_pde.Threat`; `None` for no limit.
        name: the model's name in tables; default its Keras name.
        batch_size: images at a time; no influence on the result (but for rounding).
        seed: of the default attacks.
        progress: function of (text, finished, total), called now and then; True or False for a bar
            or none; by default there is one on a terminal and in a notebook.
        at: name of a layer whose output is perturbed in place of an input, such as the embedding of
            a text; `bounds` are then of that, mostly `None`.
        perturb: which input is perturbed, of several: its key, name or number.
        output: which output has the logits, of several: likewise.
        success: when an attack has succeeded: `"misclassified"` (the default), of classifiers with
            a logit a class, or one; `"any label flips"`, of several labels; `"accuracy below 0.5"`,
            of the positions of each example, such as pixels; `"error above 0.1"`, of regressions;
            with numbers of your own. Or a function of labels and outputs, tensors, that returns
            `(batch,)`: numbers, positive for a success, that attacks maximise; or bools.
        noise: random noise under which to measure the accuracy too: pairs such as
            `("gaussian", 0.1)`, `("uniform", 0.1)` or `("salt_and_pepper", 0.05)`; see
            `evaluation.corruption.NoiseRun`.

    Returns:
        A `Report`.

    Raises:
        ValueError: unfit images, labels, model or attacks: says what was received and expected.

    Example:

    >>> report = kp.evaluate(model, x_test[:500], y_test[:500], norm="l2", epsilons=[0.1, 0.5])
    >>> print(report.table())
    """
    threat = Threat(norm, bounds=bounds)
    epsilons = _radii(threat, epsilons)
    corruptions = corruption.check(noise, threat.bounds)
    batch_size = check_count(batch_size, "batch_size")
    which = {"at": at, "perturb": perturb, "output": output}
    reports, order = [], []
    for inputs, labels, numbers in labelled(x, y):
        order.append(numbers)
        if not isinstance(model, Target) and at is None:  # before the model sees them
            check_images(Perturbed(model, **which).chosen(inputs), threat.bounds, "x")
        target = Target.of(model, inputs, **which, success=success)
        chosen = attacks
        if chosen is None:
            chosen = default_attacks(threat.norm, threat.bounds, seed, target.success)
        chosen = [chosen] if isinstance(chosen, Attack) else list(chosen)
        _check_attacks(chosen, threat, epsilons)
        plan = list(_plan(chosen, epsilons))
        with _progress(progress) as tick:
            report = _report(target, inputs, labels, threat, plan, batch_size, tick)
        reports.append(
            dataclasses.replace(
                report,
                name=name or target.model.name,
                epsilons=epsilons,
                noise=corruption.run(
                    corruptions, target, inputs, labels, threat.bounds, seed, batch_size
                ),
            )
        )
    return joined(reports, np.concatenate(order))


def _report(target, inputs, y, threat, plan, batch_size, progress) -> Report:
    """What the attacks of the plan find on inputs of one shape."""
    x, context = target.parts(inputs, batch_size)
    check_images(x, threat.bounds, "x")
    batch_size = min(batch_size, len(x))
    y = target.labels(y, len(x))
    wrong = target.success.wrong(target.outputs(x, context, batch_size), y)
    distance = np.where(wrong, 0.0, np.inf)
    closest = x.copy()
    runs, tried = [], []
    for epsilon, attack in plan:
        shown = attack.label if epsilon is None else f"{attack.label} at {epsilon:g}"
        tick = None if progress is None else lambda n, of, shown=shown: progress(shown, n, of)
        result = attack(target, inputs, y, batch_size=batch_size, progress=tick)
        nearer = result.success & (result.distance < distance)
        distance[nearer] = result.distance[nearer]
        closest[nearer] = result.adversarial[nearer]
        tried.append((attack, result.robust_accuracy))
        runs.append(_run(attack, epsilon, result))
    alarmed, noted = alarms.heard(target, inputs, x, y, context, threat, tried, batch_size)
    return Report(
        name=target.model.name,
        norm=threat.norm,
        bounds=threat.bounds,
        epsilons=(),
        distance=distance,
        runs=tuple(runs),
        alarms=alarmed,
        digest=_digest(x, *context, y),
        environment=environment.describe(),
        adversarials={"x": x, "y": y, "adversarial": closest},
        notes=noted,
        success=target.success.name,
        examples="images" if x.ndim == 4 else "examples",
    )


def _run(attack, epsilon, result):
    return AttackRun(
        attack.label,
        {"class": type(attack).__name__, **attack.get_config()},
        epsilon,
        result.robust_accuracy,
        result.forward_passes,
        result.backward_passes,
        result.seconds,
    )


@contextlib.contextmanager
def _progress(progress):
    if progress is None or progress is True:
        with progress_bar() as report:
            yield report
    else:
        yield progress or None


def digest(x, y) -> str:
    """SHA-256 of images and class numbers, as a report on them has it."""
    labels = plain_labels(np.asarray(y)).astype("int32")
    return _digest(np.asarray(x).astype(keras.config.floatx()), labels)


def _digest(*arrays):
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def _plan(attacks, epsilons):
    """Pairs (epsilon, attack); one that looks for minimal distances runs once, with `None`."""
    for attack in attacks:
        if attack.minimal:
            yield None, attack
            continue
        for epsilon in epsilons:
            yield epsilon, attack.at(epsilon)


def _radii(threat, epsilons):
    """The radii asked for, ascending and each once."""
    if epsilons is None:
        return ()
    values = [epsilons] if isinstance(epsilons, str) or np.ndim(epsilons) == 0 else epsilons
    radii = {threat.at(value).epsilon for value in values}
    if 0.0 in radii:
        raise ValueError(
            f"Received epsilons={epsilons!r}; expected lengths above 0: the clean accuracy is part "
            "of each report."
        )
    return tuple(sorted(radii))


def _check_attacks(attacks, threat, epsilons):
    for attack in attacks:
        if not isinstance(attack, Attack):
            raise ValueError(
                f"Received {attack!r} among the attacks; expected attacks as in "
                f"attacks=[kp.attacks.PGD({threat.norm!r})]."
            )
        if attack.norm != threat.norm or attack.bounds != threat.bounds:
            raise ValueError(
                f"Received the attack {attack!r} for an evaluation with norm={threat.norm!r} "
                f"and bounds={threat.bounds}; expected the same norm and bounds."
            )
    if not any(True for _ in _plan(attacks, epsilons)):
        raise ValueError(
            "Received no epsilons and no attack that works without one; pass epsilons=[...] or "
            "include MinimalDistance."
        )
