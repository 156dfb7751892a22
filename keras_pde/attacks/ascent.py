"""Projected steepest ascent: the kernel that attacks and adversarial training share.

One step of length a in the norm of the threat model,

    x <- P( x + a * steepest(gradient) ),

where P projects on the ball around the clean image, then on the box of valid images. (The clean
image lies in the box, so the second projection never lengthens the perturbation.)
"""

import keras
from keras import ops

from keras_pde.checks import limits
from keras_pde.geometry import per_example


def to_bounds(images, bounds):
    """Clips images to the box `(low, high)`; `None` means no box."""
    return images if bounds is None else ops.clip(images, *edges(bounds, images.dtype))


def edges(bounds, dtype):
    """Both ends of the box: numbers, or tensors that broadcast to the images."""
    if all(isinstance(bound, float) for bound in bounds):
        return bounds
    return tuple(ops.convert_to_tensor(bound, dtype) for bound in limits(bounds))


def feasible(images, clean, norm, epsilon, bounds):
    """The images brought back to the ball of radius `epsilon` around `clean`, and to the box."""
    return to_bounds(clean + norm.project(images - clean, epsilon), bounds)


def movable(gradient, images, bounds):
    """The gradient without the entries that would push a pixel out of the box.

    In `"l1"` this decides which pixel moves: a saturated one must make way for the next.
    """
    if bounds is None:
        return gradient
    low, high = edges(bounds, images.dtype)
    blocked = ((images >= high) & (gradient > 0)) | ((images <= low) & (gradient < 0))
    return ops.where(blocked, ops.zeros_like(gradient), gradient)


def where_rows(condition, a, b):
    """`a` for the examples where the condition `(batch,)` holds, else `b`."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # The op that takes a vector copies whole rows; the broadcasting one is slower on a CPU.
        return tf.raw_ops.Select(condition=condition, x=a, y=b)
    return ops.where(ops.reshape(condition, (-1,) + (1,) * (len(a.shape) - 1)), a, b)


def ascent_step(images, gradient, clean, norm, epsilon, step_size, bounds):
    """One step. `epsilon` and `step_size` are scalars or one per example."""
    if norm.name != "linf":  # there every pixel moves by itself: clipping undoes what is blocked
        gradient = movable(gradient, images, bounds)
    direction = norm.steepest(gradient)
    images = images + per_example(step_size, images) * direction
    return feasible(images, clean, norm, epsilon, bounds)


def ascend(gradient_fn, images, gradient, clean, norm, epsilon, step_size, steps, bounds):
    """`steps` steps from `images`, whose gradient is at hand.

    Args:
        gradient_fn: images -> gradient of the loss, per example.
        images: start, `(batch, ...)`.
        gradient: gradient at the start.
        clean: centre of the ball.
        steps: Python integer, at least 1. The loop is compiled; its size does not grow with it.

    Returns:
        The images after the last step.
    """
    images = ascent_step(images, gradient, clean, norm, epsilon, step_size, bounds)
    if steps == 1:
        return images

    def body(_, current):
        return ascent_step(current, gradient_fn(current), clean, norm, epsilon, step_size, bounds)

    return ops.fori_loop(1, steps, body, images)
