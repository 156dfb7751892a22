"""The picture of a training."""

from keras_pde import figures


def plot(history: list[dict], path=None, title: str = "", kept: int | None = None):
    """Loss and accuracies over epochs, as a Matplotlib `Figure`.

    Args:
        history: one dict of numbers an epoch, with the key "epoch".
        path: image file, whose suffix says the format, or an open file for a PNG; None writes none.
        title: heading.
        kept: number of the epoch that is kept, marked by a line.
    """
    from matplotlib.ticker import MaxNLocator

    figure, (losses, accuracies) = figures.new(9, 3.6, panels=2)
    names = [name for name in history[-1] if name not in ("epoch", "seconds")]
    for axes, label, wanted in (
        (losses, "loss", lambda name: name in ("loss", "val_loss")),
        (accuracies, "accuracy", lambda name: "accuracy" in name),
    ):
        for name in filter(wanted, names):
            points = [(row["epoch"], row[name]) for row in history if name in row]
            marker = "o" if len(points) < 3 else None
            axes.plot(*zip(*points, strict=True), label=name.replace("_", " "), marker=marker)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if kept is not None:
            axes.axvline(kept, color="0.8", linewidth=1, zorder=0)
        axes.legend()
    accuracies.set_ylim(0, 1)
    figure.suptitle(title)
    return figures.done(figure, path)
