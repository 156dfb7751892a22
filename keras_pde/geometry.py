"""The p-norms of perturbations and gradients: one object a norm, all the geometry in one place.

Tensors have a leading batch axis and any rank; every quantity is per example. A gradient is
measured in the dual of the norm that measures perturbations:

    max { <g, d> : |d| <= r } = r |g|_dual,  attained at d = r * steepest(g).
"""

import math
from abc import ABC, abstractmethod

import numpy as np
from keras import ops

from keras_pde import noise
from keras_pde.registry import unknown_name


def _axes(x):
    return tuple(range(1, len(x.shape)))


def _flat(x):
    return ops.reshape(x, (-1, _size(x)))


def _size(x):
    """Entries of one example: an integer, or a tensor where a shape is known when it runs."""
    return math.prod(ops.shape(x)[1:])


def _at(index, like):
    """Where each row has that column."""
    return ops.equal(ops.arange(_size(like), dtype="int32")[None], index[:, None])


def _total(values, shape):
    """Sum over an example's entries, to which the values broadcast; exact where they are equal."""
    return np.sum(values) * (math.prod(shape) / np.size(values))


def per_example(values, x):
    """`values` (scalar or one per example) shaped to broadcast against `x`."""
    values = ops.convert_to_tensor(values, dtype=x.dtype)
    if len(values.shape) == 0:
        return values
    return ops.reshape(values, (-1,) + (1,) * (len(x.shape) - 1))


def _magnitude(x):
    """|x| with slope 0 at 0; that of JAX's own absolute value is 1 there."""
    return ops.multiply(x, ops.stop_gradient(ops.sign(x)))


def _safe_divide(x, y):
    """x / y, and 0 where y = 0."""
    zero = ops.equal(y, 0.0)
    return ops.where(zero, ops.zeros_like(x), x / ops.where(zero, ops.ones_like(y), y))


class Norm(ABC):
    """A norm on the examples of a batch. Compare with `==`; look up with `geometry.get("l2")`."""

    name: str
    dual_name: str

    @property
    def dual(self) -> "Norm":
        """The norm that measures gradients when this one measures perturbations."""
        return get(self.dual_name)

    @abstractmethod
    def norm(self, x):
        """Length of each example: `(batch, ...) -> (batch,)`. Differentiable; slope 0 at 0."""

    @abstractmethod
    def steepest(self, gradient):
        """The direction of unit length in this norm with the largest inner product with `gradient`.

        A zero gradient stays zero. Ties in `"l1"` go to the first entry.
        """

    @abstractmethod
    def project(self, delta, radius):
        """The nearest point (in Euclidean distance) of the ball of that radius.

        Args:
            delta: tensor `(batch, ...)`.
            radius: scalar or `(batch,)`, not negative.
        """

    @abstractmethod
    def diameter(self, width, shape) -> float:
        """Length of the diagonal of a box.

        Args:
            width: widths of its sides, a NumPy array that broadcasts to the shape.
            shape: shape of one example.
        """

    def rescale(self, x, length):
        """Each example scaled to that length in this norm; zero stays zero."""
        return _safe_divide(x, per_example(self.norm(x), x)) * per_example(length, x)

    @abstractmethod
    def random(self, keys, shape, radius):
        """Points drawn uniformly from the ball, one per key.

        Args:
            keys: int32 `(batch, 2)` from `noise.keys`; an example's point depends on its key only.
            shape: shape of one example, as `noise.uniform` takes it.
            radius: scalar or `(batch,)`.

        Returns:
            float32 `(batch, *shape)`.
        """

    def _random_from_surface(self, keys, shape, radius, direction):
        """A direction of unit length times radius * U^(1/d), which is uniform in the ball."""
        size = math.prod(shape)
        u = noise.uniform(keys, (size + 1,))
        surface = self.rescale(direction(u[:, :size]), radius)
        point = surface * ops.power(u[:, size:], 1.0 / ops.cast(size, u.dtype))
        return ops.reshape(self.project(point, radius), (-1, *shape))

    def __eq__(self, other):
        return isinstance(other, Norm) and self.name == other.name

    def __hash__(self):
        return hash(self.name)

    def __repr__(self):
        return f"Norm({self.name!r})"


class L2(Norm):
    """Euclidean length; its own dual."""

    name = dual_name = "l2"

    def norm(self, x):
        # Scaling by the largest entry (a constant for the derivative) keeps squares in range.
        scale = ops.stop_gradient(ops.max(ops.abs(x), axis=_axes(x), keepdims=True))
        unit = _safe_divide(x, scale)
        squares = ops.sum(ops.square(unit), axis=_axes(x))
        positive = squares > 0
        root = ops.sqrt(ops.where(positive, squares, ops.ones_like(squares)))
        root = ops.where(positive, root, ops.zeros_like(squares))
        return root * ops.reshape(scale, (-1,))

    def diameter(self, width, shape):
        return float(np.sqrt(_total(np.square(width), shape)))

    def steepest(self, gradient):
        scale = ops.max(ops.abs(gradient), axis=_axes(gradient), keepdims=True)
        unit = _safe_divide(gradient, scale)
        return _safe_divide(unit, per_example(self.norm(unit), unit))

    def project(self, delta, radius):
        inside = per_example(self.norm(delta), delta) <= per_example(radius, delta)
        return ops.where(inside, delta, self.rescale(delta, radius))

    def random(self, keys, shape, radius):
        def direction(u):
            return ops.erfinv(2.0 * u - 1.0)

        return self._random_from_surface(keys, shape, radius, direction)


class Linf(Norm):
    """Largest absolute entry; dual to `l1`."""

    name, dual_name = "linf", "l1"

    def norm(self, x):
        return ops.max(_magnitude(x), axis=_axes(x))

    def diameter(self, width, shape):
        return float(np.max(width))

    def steepest(self, gradient):
        return ops.sign(gradient)

    def project(self, delta, radius):
        radius = per_example(radius, delta)
        return ops.minimum(ops.maximum(delta, -radius), radius)

    def random(self, keys, shape, radius):
        point = 2.0 * noise.uniform(keys, shape) - 1.0
        return point * per_example(radius, point)


class L1(Norm):
    """Sum of absolute entries; dual to `linf`. Its steepest direction is one pixel."""

    name, dual_name = "l1", "linf"

    def norm(self, x):
        return ops.sum(_magnitude(x), axis=_axes(x))

    def diameter(self, width, shape):
        return float(_total(width, shape))

    def steepest(self, gradient):
        flat = _flat(gradient)
        chosen = _at(ops.cast(ops.argmax(ops.abs(flat), axis=1), "int32"), flat)
        # A product would let an infinite entry elsewhere turn 0 into NaN.
        return ops.reshape(
            ops.where(chosen, ops.sign(flat), ops.zeros_like(flat)), ops.shape(gradient)
        )

    def project(self, delta, radius):
        # Soft thresholding; the threshold from sorted entries (Duchi et al., ICML 2008, fig. 1).
        # Entries are measured from the largest, and those below it by more than the radius vanish
        # anyway: so no sum is much larger than the radius, which rounding would leave behind.
        flat = _flat(delta)
        radius = ops.reshape(per_example(radius, flat) * ops.ones_like(flat[:, :1]), (-1, 1))
        magnitude = ops.abs(flat)
        below = ops.maximum(magnitude - ops.max(magnitude, axis=1, keepdims=True), -radius)
        descending = -ops.sort(-below, axis=1)
        excess = ops.cumsum(descending, axis=1) - radius
        count = ops.cast(ops.arange(1, _size(flat) + 1), flat.dtype)
        kept = ops.cast(descending * count > excess, flat.dtype)
        support = ops.maximum(ops.sum(kept, axis=1, keepdims=True), 1.0)
        last = ops.cast(_at(ops.cast(support[:, 0], "int32") - 1, flat), flat.dtype)
        threshold = ops.sum(last * excess, axis=1, keepdims=True) / support
        inside = ops.sum(magnitude, axis=1, keepdims=True) <= radius
        shrunk = ops.sign(flat) * ops.maximum(below - threshold, 0.0)
        return ops.reshape(ops.where(inside, flat, shrunk), ops.shape(delta))

    def random(self, keys, shape, radius):
        def direction(u):
            v = 2.0 * u - 1.0
            return -ops.sign(v) * ops.log1p(-ops.abs(v))

        return self._random_from_surface(keys, shape, radius, direction)


_NORMS = {norm.name: norm for norm in (L1(), L2(), Linf())}


def get(norm) -> Norm:
    """The norm of that name (`"l1"`, `"l2"`, `"linf"`); a `Norm` is returned as it is."""
    if isinstance(norm, Norm):
        return norm
    if not isinstance(norm, str) or norm not in _NORMS:
        raise unknown_name("norm", norm, _NORMS)
    return _NORMS[norm]


def names() -> list[str]:
    """The names of all norms."""
    return list(_NORMS)
