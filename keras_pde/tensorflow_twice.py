"""TensorFlow functions that it cannot differentiate, or not twice, in forms that it can.

`tf.nn.moments` stops the gradient of the mean within the variance, which is right to first order
only; resizing and softsign have gradients that are unknown to have any, or whose own is zero; the
gradient of projective transforms, which random rotations, zooms and translations are made of, is
transformed back and interpolated where it should be spread (an error of a half). The values here
are the same.

Keras calls these functions by their public names, so they are replaced there, once; but the others'
forms are used in a thread only within `exact()`. A `tf.function` that was traced before stays as it
was traced.
"""

import contextlib
import functools
import threading

import tensorflow as tf

SCOPE = "differentiable_twice"  # of the operations whose own gradients do not matter
_ACTIVE = threading.local()


@contextlib.contextmanager
def exact():
    """Within it, in this thread, what is called can be differentiated twice."""
    before = getattr(_ACTIVE, "yes", False)
    _ACTIVE.yes = True
    try:
        yield
    finally:
        _ACTIVE.yes = before


def _moments(original, x, axes, shift=None, keepdims=False, name=None):
    x = tf.convert_to_tensor(x)
    wide = tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x
    mean = tf.reduce_mean(wide, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(wide - mean), axes, keepdims=True)
    if not keepdims:
        mean, variance = tf.squeeze(mean, axes), tf.squeeze(variance, axes)
    return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)


def _softsign(original, features, name=None):
    return features / (1 + tf.abs(features))


def _resize(original, images, *args, **kwargs):
    def resize(z):
        return original(z, *args, **kwargs)

    def transposed(g):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(anywhere)
            value = resize(anywhere)
        return tape.gradient(value, anywhere, g)

    anywhere = tf.stop_gradient(images)
    return _linear(resize, transposed, images)


def _project(original, images, transforms, output_shape, fill_value, interpolation, **kwargs):
    mode = kwargs.setdefault("fill_mode", "CONSTANT")
    kwargs |= {"output_shape": output_shape, "interpolation": interpolation}

    def project(z, fill_value=0.0):
        return original(images=z, transforms=transforms, fill_value=fill_value, **kwargs)

    def transposed(g):
        places, weights = _places_and_weights(
            tf.shape(images), transforms, output_shape, interpolation, mode
        )
        weights = tf.cast(weights, g.dtype)[..., None]
        return tf.scatter_nd(places, weights * g[:, None], tf.shape(images))

    projected = _linear(project, transposed, images)
    if mode != "CONSTANT":
        return projected
    return projected + tf.stop_gradient(project(tf.zeros_like(images), fill_value))


def _places_and_weights(shape, transforms, output_shape, interpolation, fill_mode):
    """What each pixel of a projected image is a sum of.

    Returns:
        Integers (batch, 4, height, width, 3), numbers of images, rows and columns; and factors
        (batch, 4, height, width), zero where that is outside.
    """
    t = tf.reshape(tf.pad(transforms, [[0, 0], [0, 1]], constant_values=1.0), (-1, 3, 3))
    t = tf.broadcast_to(t, (shape[0], 3, 3))
    rows, columns = (tf.range(n, dtype=tf.float32) for n in tf.unstack(output_shape))
    x, y = tf.meshgrid(columns, rows)
    x, y, scale = tf.unstack(tf.einsum("nij,jhw->inhw", t, tf.stack([x, y, tf.ones_like(x)])))
    size = tf.cast(shape[1:3], tf.float32)
    y, x = (_inside(c / scale, n, fill_mode) for c, n in ((y, size[0]), (x, size[1])))
    if interpolation == "NEAREST":
        y, x = (tf.sign(c) * tf.floor(tf.abs(c) + 0.5) for c in (y, x))
    places, weights = [], []
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row, column = tf.floor(y) + down, tf.floor(x) + right
        weight = (1 - tf.abs(y - row)) * (1 - tf.abs(x - column))
        inside = (row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1])
        weights.append(tf.where(inside, weight, 0.0))
        row, column = (tf.where(inside, c, 0.0) for c in (row, column))
        places.append(tf.stack([row, column], axis=-1))
    places = tf.cast(tf.stack(places, axis=1), tf.int32)
    number = tf.reshape(tf.range(shape[0]), (-1, 1, 1, 1, 1))
    number = tf.broadcast_to(number, (*tf.unstack(tf.shape(places))[:4], 1))
    return tf.concat([number, places], axis=-1), tf.stack(weights, axis=1)


def _inside(position, size, fill_mode):
    """Where an image of that size is read for a position that may be outside."""
    if fill_mode == "CONSTANT":
        return position
    if fill_mode == "REFLECT":  # d c b a | a b c d | d c b a
        folded = tf.math.floormod(position + 0.5, 2 * size)
        position = tf.minimum(folded, 2 * size - folded) - 0.5
    elif fill_mode == "WRAP":
        turns = tf.floor(tf.abs(position) / tf.maximum(size - 1, 1))
        before, behind = position + size * (turns + 1), position - size * turns
        position = tf.where(position < 0, before, tf.where(position > size - 1, behind, position))
    return tf.clip_by_value(position, 0.0, size - 1)


def _linear(function, transposed, x):
    """A linear function that is differentiated, as often as one likes, by its transposed one."""

    @tf.custom_gradient
    def forward(z):
        def back(g):
            with tf.name_scope(SCOPE):
                return _linear(transposed, function, g)

        return function(z), back

    return forward(x)


def _replace(module, name, argument, form):
    """Puts the form in the place of a function of a module, for floats."""
    original = getattr(module, name)

    @functools.wraps(original)
    def replaced(*args, **kwargs):
        if not getattr(_ACTIVE, "yes", False):
            return original(*args, **kwargs)
        x, *args = args if args else (kwargs.pop(argument),)
        x = tf.convert_to_tensor(x)
        if x.dtype.is_floating:
            return form(original, x, *args, **kwargs)
        return original(*args, **{argument: x, **kwargs})

    setattr(module, name, replaced)


_replace(tf.nn, "moments", "x", _moments)
_replace(tf.nn, "softsign", "features", _softsign)
_replace(tf.image, "resize", "images", _resize)
_replace(tf.raw_ops, "ImageProjectiveTransformV3", "images", _project)
