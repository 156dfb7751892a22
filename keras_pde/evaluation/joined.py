"""One report of examples in several shapes, each of which was evaluated by itself."""

import dataclasses
import hashlib
import itertools

import numpy as np

from keras_pde.evaluation.report import AttackRun, Report


def joined(reports, numbers) -> Report:
    """The report of all their examples, made with the same settings.

    Args:
        reports: of some of the examples each.
        numbers: of these examples, one report after the other, in the order of the whole.
    """
    if len(reports) == 1:
        return reports[0]
    counts = [report.count for report in reports]
    digests = "".join(report.digest for report in reports)
    return dataclasses.replace(
        reports[0],
        distance=np.concatenate([report.distance for report in reports])[np.argsort(numbers)],
        runs=tuple(_run(runs, counts) for runs in zip(*(r.runs for r in reports), strict=True)),
        alarms=_said(reports, "alarms"),
        notes=_said(reports, "notes"),
        noise=tuple(
            dataclasses.replace(runs[0], accuracy=_mean(runs, counts, "accuracy"))
            for runs in zip(*(report.noise for report in reports), strict=True)
        ),
        digest=hashlib.sha256(digests.encode()).hexdigest(),
        adversarials=None,  # which are of several shapes
    )


def _run(runs, counts) -> AttackRun:
    sums = ("forward_passes", "backward_passes", "seconds")
    return dataclasses.replace(
        runs[0],
        robust_accuracy=_mean(runs, counts, "robust_accuracy"),
        **{name: sum(getattr(run, name) for run in runs) for name in sums},
    )


def _mean(runs, counts, name):
    return float(np.average([getattr(run, name) for run in runs], weights=counts))


def _said(reports, name):
    """Each sentence once."""
    return tuple(dict.fromkeys(itertools.chain(*(getattr(report, name) for report in reports))))
