"""Whether the images of a training step lie in the range that the objective is meant for.

A whole array is looked at before training; of datasets the batches are, in the step itself. There
a compiler may drop assertions (XLA does), so that the step also counts what it sees in a metric.
"""

from keras import ops

from keras_pde.checks import bounds_text, limits

_SLACK = 1e-5  # of rounding in augmentation


def outside(images, bounds):
    """1.0 if an entry lies outside the bounds or is NaN, else 0.0; a scalar tensor."""
    if bounds is None:
        return ops.zeros((), dtype="float32")
    low, high = (ops.convert_to_tensor(bound, images.dtype) for bound in limits(bounds))
    inside = ops.logical_and(images >= low - _SLACK, images <= high + _SLACK)
    return 1.0 - ops.cast(ops.all(inside), "float32")


def message(bounds) -> str:
    """The error for such images."""
    return (
        f"Received images outside {bounds_text(bounds)} (or NaN), the `bounds` of the objective; "
        "expected images scaled to them (divide by 255, normalise inside the model), or pass "
        "`bounds=` of your own units to its term (epsilon is then in those units too)."
    )
