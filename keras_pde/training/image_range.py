"""Whether the images of a training step lie in the range that the objective is meant for.

A whole array is looked at before training; of datasets the batches are, in the step itself. There
a compiler may drop assertions (XLA does), so that the step also counts what it sees in a metric.
"""

from keras import ops

from keras_pde.checks import bounds_text, limits

_SLACK = 1e-5  # of rounding in augmentation, as a part of the range


def outside(images, bounds):
    """1.0 if an entry lies outside the bounds, is NaN or infinite, else 0.0; a scalar tensor.

    Raises:
        ValueError: bounds that do not broadcast to one example.
    """
    inside = ops.isfinite(images)
    if bounds is not None:
        low, high = limits(bounds)
        _check_shape((low + high).shape, images.shape)
        slack = _SLACK * (high - low)
        low, high = (ops.convert_to_tensor(b, images.dtype) for b in (low - slack, high + slack))
        inside = ops.logical_and(images >= low, images <= high)
    return 1.0 - ops.cast(ops.all(inside), "float32")


def _check_shape(bounds, images):
    example = tuple(images)[1:]
    sizes = zip(reversed(bounds), reversed(example), strict=False)
    if len(bounds) > len(example) or any(b not in (1, size) and size for b, size in sizes):
        raise ValueError(
            f"Received images of shape {tuple(images)} for bounds of shape {bounds}; expected "
            "bounds that broadcast to one example."
        )


def message(bounds) -> str:
    """The error for such images."""
    if bounds is None:
        return "Received images with NaN or infinite entries; expected finite numbers."
    return (
        f"Received images outside {bounds_text(bounds)} (or NaN), the `bounds` of the objective; "
        "expected images scaled to them (divide by 255, normalise inside the model), or pass "
        "`bounds=` of your own units to its term (epsilon is then in those units too)."
    )
