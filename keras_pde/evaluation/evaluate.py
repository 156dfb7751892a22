import hashlib

import keras
import numpy as np

from keras_pde import environment, geometry
from keras_pde.attacks import FGSM, PGD, Attack, MinimalDistance, Target
from keras_pde.checks import check_bounds, check_images, check_radii, class_labels
from keras_pde.evaluation import alarms
from keras_pde.evaluation.report import AttackRun, Report
from keras_pde.units import radius


def default_attacks(norm, bounds=(0.0, 1.0), seed=0):
    """The attacks of `evaluate`: FGSM as a check, PGD on two losses, and minimal distances."""
    norm = geometry.get(norm).name
    ball = {"norm": norm, "epsilon": 0.0, "bounds": bounds}
    return [
        FGSM(**ball),
        PGD(**ball, steps=40, loss="ce", seed=seed),
        PGD(**ball, steps=40, loss="dlr", restarts=2, seed=seed + 1),
        # In l1 a step moves one pixel, so that few steps leave many images with nothing found.
        MinimalDistance(norm, steps=40 if norm == "l1" else 10, loss="margin", bounds=bounds),
    ]


def evaluate(
    model,
    x,
    y=None,
    *,
    norm="linf",
    epsilons=(),
    attacks=None,
    bounds=(0.0, 1.0),
    name=None,
    batch_size=128,
    seed=0,
    progress=None,
) -> Report:
    """Measures how robust a model is, and how far to trust the measurement.

    Every attack runs on all images at every epsilon. An image counts as robust at epsilon if it
    is classified correctly and no attack, at any radius, found a perturbation of length epsilon or
    less. That is an upper bound: a stronger attack may find more.

    Args:
        model: Keras model of logits, or a `Target` of it.
        x: images `(n, ...)`, or a dataset (`tf.data`, any iterable of `(images, labels)` batches).
        y: labels, integers or one-hot; none with a dataset.
        norm: `"l1" | "l2" | "linf"`, norm of the perturbations.
        epsilons: radii at which to measure, in the units of the images: numbers, or "8/255".
        attacks: attacks to run, in this norm; their own epsilon is replaced by each of `epsilons`.
            Default `default_attacks(norm)`.
        bounds: `(low, high)` range of valid images; not `None` here.
        name: the model's name in tables; default its Keras name.
        batch_size: images at a time; no influence on the result (but for rounding).
        seed: of the default attacks.
        progress: function of (text, finished, total), called now and then.

    Returns:
        A `Report`.

    Raises:
        ValueError: unfit images, labels, model or attacks: says what was received and expected.

    Example:

    >>> report = kp.evaluate(model, x_test[:500], y_test[:500], norm="l2", epsilons=[0.1, 0.5])
    >>> print(report.table())
    """
    norm, bounds = geometry.get(norm).name, check_bounds(bounds)
    if bounds is None:
        raise ValueError("Received bounds=None; expected (low, high), the range of the images.")
    x, y = _arrays(x, y)
    check_images(x, bounds, "x")
    x = x.astype(keras.config.floatx())
    target = Target.of(model, x)
    batch_size = min(batch_size, len(x))
    y = class_labels(y, target.num_classes, len(x))
    epsilons = tuple(sorted({radius(e) for e in np.ravel(epsilons)}))
    check_radii(epsilons, norm, bounds, "epsilons")
    if attacks is None:
        attacks = default_attacks(norm, bounds, seed)
    attacks = [attacks] if isinstance(attacks, Attack) else list(attacks)
    _check_attacks(attacks, norm, bounds, epsilons)

    distance = np.where(target.predict(x, batch_size) == y, np.inf, 0.0)
    closest = x.copy()
    runs = []
    for epsilon, attack in _plan(attacks, epsilons):
        shown = attack.label if epsilon is None else f"{attack.label} at {epsilon:g}"
        tick = None if progress is None else lambda n, of, shown=shown: progress(shown, n, of)
        result = attack(target, x, y, batch_size=batch_size, progress=tick)
        nearer = result.success & (result.distance < distance)
        distance[nearer] = result.distance[nearer]
        closest[nearer] = result.adversarial[nearer]
        runs.append(
            AttackRun(
                attack.label,
                {"class": type(attack).__name__, **attack.get_config()},
                epsilon,
                result.robust_accuracy,
                result.forward_passes,
                result.backward_passes,
                result.seconds,
            )
        )
    found = [
        alarms.random_outputs(target, x, batch_size),
        alarms.probabilities(target),
        alarms.zero_gradients(target, x, y, batch_size),
        alarms.foreign_bounds(bounds),
        alarms.grows_with_epsilon(runs),
        alarms.falls_with_fewer_steps(runs),
        alarms.survives_everything(target, x, y, norm, bounds, batch_size),
    ]
    return Report(
        name=name or target.model.name,
        norm=norm,
        bounds=bounds,
        epsilons=epsilons,
        distance=distance,
        runs=tuple(runs),
        alarms=tuple(alarm for alarm in found if alarm),
        digest=hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest(),
        environment=environment.describe(),
        adversarials={"x": x, "y": y, "adversarial": closest},
    )


def _plan(attacks, epsilons):
    """Pairs (epsilon, attack); an attack that has no epsilon of its own runs once, with `None`."""
    for attack in attacks:
        config = attack.get_config()
        if "epsilon" not in config:
            yield None, attack
            continue
        for epsilon in epsilons:
            yield epsilon, type(attack).from_config({**config, "epsilon": epsilon})


def _check_attacks(attacks, norm, bounds, epsilons):
    for attack in attacks:
        if not isinstance(attack, Attack):
            raise ValueError(
                f"Received {attack!r} among the attacks; expected attacks as in "
                f"attacks=[kp.attacks.PGD({norm!r}, epsilon=0)]."
            )
        if attack.norm != norm or attack.bounds != bounds:
            raise ValueError(
                f"Received the attack {attack!r} for an evaluation with norm={norm!r} and "
                f"bounds={bounds}; expected the same norm and bounds."
            )
    if not any(True for _ in _plan(attacks, epsilons)):
        raise ValueError(
            "Received no epsilons and no attack that works without one; pass epsilons=[...] or "
            "include MinimalDistance."
        )


def _arrays(x, y):
    """Arrays from arrays, or from a dataset of batches."""
    if y is not None:
        return np.asarray(x), np.asarray(y)
    if hasattr(x, "__array__"):
        raise ValueError("Received images without labels; pass y, or a dataset of (x, y) batches.")
    batches = [(np.asarray(batch[0]), np.asarray(batch[1])) for batch in x]
    if not batches:
        raise ValueError("Received an empty dataset; expected batches of (images, labels).")
    if any(images.ndim < 2 or labels.ndim == 0 for images, labels in batches):
        raise ValueError("Received a dataset of single examples; batch it: dataset.batch(128).")
    return tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))
