import math

import keras
from keras import ops


class State:
    """The rows that a solver computes with: tensors `(batch, ...)` side by side, in one matrix.

    Args:
        y0: tensor, or nesting of tensors, with one batch axis in common.

    Raises:
        ValueError: a tensor is not of floats, has no batch axis, or its other axes are unknown.
    """

    def __init__(self, y0):
        leaves = [ops.convert_to_tensor(leaf) for leaf in keras.tree.flatten(y0)]
        self._structure = y0
        self.shapes = [tuple(leaf.shape) for leaf in leaves]
        self.dtypes = [keras.backend.standardize_dtype(leaf.dtype) for leaf in leaves]
        if not leaves:
            raise ValueError(f"Received y0={y0!r}; expected at least one tensor.")
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            if "float" not in dtype:
                raise ValueError(
                    f"Received y0 of type {dtype}; expected floats, such as y0.astype('float32'): "
                    "a solution does not stay at integers."
                )
            if not shape or None in shape[1:]:
                raise ValueError(
                    f"Received y0 of shape {shape}; expected (batch, ...), of which only the batch "
                    "may be unknown. For a single example, y0[None]."
                )
        batches = {shape[0] for shape in self.shapes} - {None}
        if len(batches) > 1:
            raise ValueError(
                f"Received y0 of shapes {self.shapes}; expected the same first axis, the batch."
            )
        # Half precision would lose the small steps.
        self.dtype = "float64" if "float64" in self.dtypes else "float32"
        self.sizes = [math.prod(shape[1:]) for shape in self.shapes]
        # Against y of lower rank it changes the shape, which is noticed.
        self._time_rank = max(len(shape) for shape in self.shapes)
        self.rows = self._joined(leaves)

    def _joined(self, leaves):
        rows = [
            ops.cast(ops.reshape(leaf, (-1, size)), self.dtype)
            for leaf, size in zip(leaves, self.sizes, strict=True)
        ]
        return rows[0] if len(rows) == 1 else ops.concatenate(rows, axis=-1)

    def unpack(self, rows):
        """The nesting again, from a matrix `(..., batch, D)` of rows."""
        lead, parts, first = tuple(rows.shape[:-2]), [], 0
        for shape, dtype, size in zip(self.shapes, self.dtypes, self.sizes, strict=True):
            part = rows[..., first : first + size]
            parts.append(ops.cast(ops.reshape(part, (*lead, -1, *shape[1:])), dtype))
            first += size
        return keras.tree.pack_sequence_as(self._structure, parts)

    def field(self, func, start, sign):
        """dy/ds as `field(s, y)`, of rows y, with t = start + sign s; s is `(batch, 1)` or `()`.

        Going backwards in time is going forwards in s.
        """

        def field(elapsed, rows):
            return sign * self._slope(
                func(self._time(start + sign * elapsed, rows), self.unpack(rows))
            )

        return field

    def event(self, func, start, sign):
        """One number an example as `event(s, y)`, `(batch, 1)`."""

        def event(elapsed, rows):
            value = func(self._time(start + sign * elapsed, rows), self.unpack(rows))
            value = ops.cast(ops.convert_to_tensor(value), self.dtype)
            shape = tuple(value.shape)
            known = {*shape[:1], rows.shape[0]} - {None}
            if not shape or math.prod(shape[1:]) != 1 or len(known) > 1:
                raise ValueError(
                    f"Received an event_fn that returns {tuple(value.shape)}; expected one number "
                    "an example, (batch,). Of several conditions, take the product or the least."
                )
            return ops.reshape(value, (-1, 1))

        return event

    def _time(self, t, rows):
        """`(batch, 1, ..., 1)`, for functions of the user's."""
        t = t + ops.zeros_like(rows[:, :1])
        return ops.reshape(t, (-1,) + (1,) * (self._time_rank - 1))

    def _slope(self, value):
        try:
            keras.tree.assert_same_structure(self._structure, value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Received a slope from func that is nested differently from y0: {error} Expected "
                "dy/dt in the same nesting."
            ) from error
        leaves = [ops.convert_to_tensor(leaf) for leaf in keras.tree.flatten(value)]
        for leaf, shape in zip(leaves, self.shapes, strict=True):
            received = tuple(leaf.shape)
            fits = len(received) == len(shape) and all(
                m is None or n is None or m == n for m, n in zip(received, shape, strict=True)
            )
            dtype = keras.backend.standardize_dtype(leaf.dtype)
            if fits and dtype == "float64" != self.dtype:
                raise ValueError(
                    "Received a slope from func of type float64, for y of float32; expected one of "
                    "float32: cast it, or give y0 in float64. Functions of NumPy make float64."
                )
            if not fits or dtype not in ("float16", "bfloat16", "float32", self.dtype):
                raise ValueError(
                    f"Received a slope from func of shape {received} and type {dtype}, for y of "
                    f"shape {shape}; expected dy/dt in that shape, {self.dtype} or narrower. The "
                    f"times that func gets are of shape (batch{', 1' * (self._time_rank - 1)})."
                )
        return self._joined(leaves)
