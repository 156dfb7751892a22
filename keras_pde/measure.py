"""From a `Report` to the rows of a card, and back: the rows measured again."""

import json

from keras_pde import registry
from keras_pde.evaluation import Report, evaluate
from keras_pde.hub import Card, Measurement
from keras_pde.registry import unknown_name


def measurement(report: Report, epsilon: float, seed: int) -> Measurement:
    """The row of a card that states what a report found at one radius.

    Example:

        report = kp.evaluate(model, x, y, norm="linf", epsilons=[0.1], seed=0)
        row = measurement(report, 0.1, seed=0)

    Args:
        report: of the first images of the data set's test part.
        epsilon: one of the radii of the report.
        seed: of the attacks.

    Raises:
        ValueError: the report was not made at that radius.
    """
    if epsilon not in report.epsilons:
        raise ValueError(
            f"Received epsilon={epsilon}; expected one of the report's, {report.epsilons}."
        )
    median = report.distance_quantile()
    return Measurement(
        norm=report.norm,
        epsilon=epsilon,
        images=report.count,
        clean_accuracy=report.clean_accuracy,
        clean_interval=report.interval(),
        robust_accuracy=report.robust_accuracy(epsilon),
        robust_interval=report.interval(epsilon),
        median_distance=median if median < float("inf") else None,
        attacks=tuple(_attack(run) for run in report.runs if run.epsilon in (None, epsilon)),
        seed=seed,
        digest=report.digest,
        keras_pde_version=report.environment["keras_pde"],
        date=report.environment["date"],
        alarms=report.alarms,
    )


def _attack(run):
    return {
        "label": run.attack,
        # The radius is the row's, for all attacks.
        "config": {key: value for key, value in run.config.items() if key != "epsilon"},
        # A search for distances goes on until it has one: its accuracy says nothing.
        "robust_accuracy": None if run.epsilon is None else run.robust_accuracy,
    }


def measure_again(card: Card, model, x, y, progress=None) -> list[tuple[Measurement, Measurement]]:
    """Repeats the measurements of a card, with the same images, attacks, radii and seeds.

    Example:

        for published, measured in measure_again(card, kp.load_model(card.name), x_test, y_test):
            print(published.robust_accuracy, measured.robust_accuracy, agree(published, measured))

    Args:
        card: whose attacked rows are repeated; certified ones are left out.
        model: the model of the card.
        x, y: the test part of the card's data set, from its first image on.
        progress: function of (text, finished, total), called now and then.

    Returns:
        Pairs of the published row and the measured one.

    Raises:
        ValueError: the images are not those of the card, or it names an attack that does not exist.
    """
    runs = {}
    for row in card.measurements:
        if not row.certified:
            attacks = tuple(json.dumps(a["config"], sort_keys=True) for a in row.attacks)
            runs.setdefault((row.norm, row.images, row.seed, row.digest, attacks), []).append(row)
    pairs = {}
    for (norm, images, seed, digest, attacks), rows in runs.items():
        # Radii that were measured together are so again: an attack counts at every larger one.
        report = evaluate(
            model,
            x[:images],
            y[:images],
            norm=norm,
            epsilons=[row.epsilon for row in rows],
            attacks=[_attack_of(json.loads(config)) for config in attacks],
            name=card.name or card.title,
            seed=seed,
            progress=progress,
        )
        if report.digest != digest:
            raise ValueError(
                f"Received images with SHA-256 {report.digest}; expected the first {images} test "
                f"images of {card.dataset!r} that the card was measured on, {digest}."
            )
        pairs.update({id(row): (row, measurement(report, row.epsilon, seed)) for row in rows})
    return [pairs[id(row)] for row in card.measurements if id(row) in pairs]


def agree(published: Measurement, measured: Measurement) -> bool:
    """Whether a repeated measurement lies within the published intervals."""
    (low, high), (robust_low, robust_high) = published.clean_interval, published.robust_interval
    return (
        low <= measured.clean_accuracy <= high
        and robust_low <= measured.robust_accuracy <= robust_high
    )


def _attack_of(config):
    classes = {entry.component.__name__: entry.component for entry in registry.entries("attack")}
    config = dict(config)
    name = config.pop("class", None)
    if name not in classes:
        raise unknown_name("attack on a card", name, classes)
    return classes[name].from_config(config)
