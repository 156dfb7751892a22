"""Pictures, made without a display: returned, and written only where a path is given."""

from keras_pde import files


def new(width, height, panels=1):
    """A figure of that size in inches, and the list of its panels side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def done(figure, path=None):
    """The figure, which is also written to the path if there is one; its suffix says the format."""
    if path is None:
        return figure
    if hasattr(path, "write"):
        figure.savefig(path, dpi=130)
        return figure
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=130)
    return figure
