"""Reports as text."""

from keras_pde.text import columns, number, percent


def interval(successes: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Exact (Clopper-Pearson) confidence interval of a share."""
    from scipy.stats import binomtest

    found = binomtest(int(successes), int(count)).proportion_ci(level, method="exact")
    return float(found.low), float(found.high)


def report(found) -> str:
    """The table of a `Report`."""
    rule = "" if found.success == "misclassified" else f", success: {found.success}"
    what = f"{found.norm} robustness on {found.count} {found.examples}"
    quantiles = ", ".join(
        f"{int(100 * q)} %: {number(found.distance_quantile(q))}" for q in (0.25, 0.5, 0.75)
    )
    lines = [f"{found.name}: {what} (upper bounds{rule})", "", *columns(list(_accuracies(found)))]
    lines += ["", f"smallest {found.norm} distance found, quantiles: {quantiles}", ""]
    lines += columns(list(_attacks(found)))
    if found.noise:
        lines += ["", *columns(list(_noise(found)))]
    said = [f"ALARM: {alarm}" for alarm in found.alarms]
    said += [f"NOTE: {note}" for note in found.notes]
    return "\n".join([*lines, "", *said] if said else lines)


def _accuracies(found):
    proven = found.certified is not None
    yield ("epsilon", "accuracy", "95 % interval", *["certified"] * proven)
    for epsilon in (0.0, *found.epsilons):
        label = f"{epsilon:g}" if epsilon else "0 (clean)"
        cells = (percent(found.robust_accuracy(epsilon)), _shown(found.interval(epsilon)))
        yield (label, *cells, *([percent(found.certified_accuracy(epsilon))] if proven else []))


def _attacks(found):
    yield ("attack", "epsilon", "accuracy", "forward", "backward", "seconds")
    for run in found.runs:
        epsilon = "-" if run.epsilon is None else f"{run.epsilon:g}"
        work = (str(run.forward_passes), str(run.backward_passes), f"{run.seconds:.1f}")
        # A search for distances goes on until it has one: its accuracy says nothing.
        accuracy = "-" if run.epsilon is None else percent(run.robust_accuracy)
        yield (run.attack, epsilon, accuracy, *work)


def _noise(found):
    yield ("noise", "amount", "accuracy", "95 % interval")
    for run in found.noise:
        shown = _shown(interval(round(run.accuracy * found.count), found.count))
        yield (run.kind, f"{run.amount:g}", percent(run.accuracy), shown)


def _shown(ends):
    return " - ".join(map(percent, ends))
