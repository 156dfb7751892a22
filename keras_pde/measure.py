"""From a `Report` to the rows of a card."""

from keras_pde.evaluation import Report
from keras_pde.hub import Measurement


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
