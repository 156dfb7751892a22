"""The picture of a search: what robustness costs."""

import textwrap

from keras_pde import figures
from keras_pde.tuner.trials import Trial

CLEAN, ROBUST = "val_accuracy", "val_robust_accuracy"


def pareto(trials: list[Trial]) -> list[Trial]:
    """The completed trials that no other one beats in clean and in robust accuracy."""
    completed = [trial for trial in trials if trial.state == "completed"]
    points = {trial.number: (trial.metrics[CLEAN], trial.metrics[ROBUST]) for trial in completed}

    def beaten(trial):
        mine = points[trial.number]
        return any(p != mine and p[0] >= mine[0] and p[1] >= mine[1] for p in points.values())

    front = [trial for trial in completed if not beaten(trial)]
    return sorted(front, key=lambda trial: points[trial.number])


def plot(trials: list[Trial], best: Trial, path=None, title: str = "", what: str = ""):
    """Clean against robust validation accuracy, one point a trial, as a Matplotlib `Figure`.

    Args:
        trials: failed ones are left out.
        best: the one to mark.
        path: image file, whose suffix says the format; None writes none.
        title: heading.
        what: how the robust accuracy was measured.
    """
    figure, (axes,) = figures.new(6, 4.5)
    completed = [trial for trial in trials if trial.state == "completed"]
    front = pareto(trials)

    def points(some):
        return zip(*((t.metrics[CLEAN], t.metrics[ROBUST]) for t in some), strict=True)

    axes.plot(*points(front), "-", color="0.6", zorder=1, label="Pareto front")
    axes.scatter(*points(completed), zorder=2, label="trial")
    axes.scatter(*points([best]), s=160, marker="*", color="tab:red", zorder=3, label="best")
    for trial in completed:
        axes.annotate(
            f"{trial.number}",
            (trial.metrics[CLEAN], trial.metrics[ROBUST]),
            xytext=(5, 4),
            textcoords="offset points",
            fontsize="small",
        )
    axes.set(xlabel="clean validation accuracy", ylabel=f"robust validation accuracy\n{what}")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.suptitle(textwrap.fill(title, 60))
    return figures.done(figure, path)
