import contextlib
import math
import warnings

import keras
import numpy as np
from keras import ops, tree

from keras_pde import integrators
from keras_pde.checks import check_count, check_number

_ROUNDING = 1e-6
_JUDGED = 512  # states up to which the eigenvalues take a fraction of a second


class DifferentialCell(keras.layers.SimpleRNNCell):
    """A recurrent cell that makes one step of a differential equation: the base class.

    With the input x_t held during the step of length h,

        h_{t+1} = one step of the scheme for    h'(s) = F(h(s), u),    u = V x_t + b.

    The state is float32 under mixed precision; the products are in the type of the policy. A
    subclass builds its recurrent weights (`build_recurrent`) and defines

    - `matrices()`: what F multiplies the state by, as Keras' kernels right of it. The layers of
      this package evaluate it once a sequence, `keras.layers.RNN` once a time step.
    - `slope(h, u, mask, *matrices)`: F, with the mask of the recurrent dropout for `product`.
    - `eigenvalues(*matrices)`: those of the Jacobian of F at h = 0, u = 0, with slope 1 of the
      activation, from NumPy arrays.

    Up to 512 states, `build` warns where the step makes solutions grow.

    Args:
        units: number n of units.
        step_size: h, > 0, in the unit of time of the equation.
        scheme: name of an explicit Runge-Kutta method of `keras_pde.integrators`, or a
            `RungeKutta` of one's own.
        **kwargs: of `keras.layers.SimpleRNNCell`; `recurrent_...` is for all stored recurrent
            weights. Both initializers are N(0, 1 / fan_in) by default. What is said of stability
            holds for activations with slopes in [0, 1], as tanh.

    Raises:
        ValueError: an argument is out of range, or the scheme is no method of single steps.
    """

    drives = 1  # how many u F needs
    parts = 1  # how many tensors of `units` numbers the state is

    def __init__(self, units, step_size, scheme="euler", **kwargs):
        initial = {"kernel_initializer": "lecun_normal", "recurrent_initializer": "lecun_normal"}
        super().__init__(check_count(units, "units"), **{**initial, **kwargs})
        self.step_size = check_number(step_size, "step_size", above=0)
        self.scheme = integrators.get(scheme)
        if not isinstance(self.scheme, integrators.RungeKutta):
            raise ValueError(
                f"Received scheme={self.scheme.name!r}; expected an explicit Runge-Kutta method, "
                "such as 'euler' or 'rk4': a cell makes single steps of one state."
            )
        if self.parts > 1:
            self.state_size = [self.units] * self.parts
        self._held = None

    def build(self, input_shape):
        width = self.drives * self.units
        self.kernel = self._weight("kernel", (input_shape[-1], width))
        self.bias = self._weight("bias", (width,)) if self.use_bias else None
        self.build_recurrent()
        self._warn_of_growth()

    def _weight(self, name, shape, kind=None, initializer=None):
        """A weight with the initializer, regularizer and constraint of its kind."""
        kind = kind or name
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer or getattr(self, f"{kind}_initializer"),
            regularizer=getattr(self, f"{kind}_regularizer"),
            constraint=getattr(self, f"{kind}_constraint"),
            autocast=False,
        )

    def build_recurrent(self):
        raise NotImplementedError

    def matrices(self):
        raise NotImplementedError

    def slope(self, h, u, mask, *matrices):
        raise NotImplementedError

    def eigenvalues(self, *matrices):
        raise NotImplementedError

    @property
    def compute_dtype(self):
        # Keras keeps the states of a recurrent layer in this type.
        return keras.backend.result_type(super().compute_dtype, "float32")

    def product(self, x, matrix, mask=None):
        """x times a matrix, in the type of the policy; only entries of x that the mask keeps."""
        dtype = super().compute_dtype
        x = x if mask is None else x * mask
        return ops.cast(ops.matmul(ops.cast(x, dtype), ops.cast(matrix, dtype)), self.compute_dtype)

    def call(self, sequence, states, training=False):
        parts = tree.flatten(states)
        x_mask, h_mask = self.get_dropout_mask(sequence), self.get_recurrent_dropout_mask(parts[0])
        if not training:
            x_mask = h_mask = None
        elif h_mask is not None:
            h_mask = ops.tile(h_mask, (1, self.parts))
        u = self.product(sequence, self.kernel, x_mask)
        if self.bias is not None:
            u = ops.add(u, self.bias)
        matrices = self.matrices() if self._held is None else self._held

        def field(stage, h):
            return self.slope(h, u, h_mask, *matrices)

        h = parts[0] if self.parts == 1 else ops.concatenate(parts, axis=-1)
        (h,) = self.scheme.step(field, (h,), self.step_size)
        parts = [h] if self.parts == 1 else ops.split(h, self.parts, axis=-1)
        return parts[0], tree.pack_sequence_as(states, parts)

    @contextlib.contextmanager
    def held(self):
        """Within it, the matrices are those at its beginning: they need not be made every step."""
        self._held = tuple(self.matrices())
        try:
            yield
        finally:
            self._held = None

    def get_initial_state(self, batch_size=None):
        shape = (batch_size, self.units)
        return [ops.zeros(shape, dtype=self.compute_dtype) for _ in range(self.parts)]

    def spectrum(self):
        """Eigenvalues of F, linearised where the activation has slope 1: a complex NumPy array."""
        matrices = (np.float64(ops.convert_to_numpy(matrix)) for matrix in self.matrices())
        return self.eigenvalues(*matrices).astype("complex128")

    def _warn_of_growth(self):
        """Warns where the step, rather than the equation, is the cause of most of the growth."""
        if self.parts * self.units > _JUDGED or not _has_value(self.matrices()[0]):
            return
        spectrum = self.spectrum()
        grown = self.scheme.amplification(self.step_size * spectrum).max()
        allowed = math.exp(max(self.step_size * self._growth_rate(spectrum), 0.0))
        # Squared: where the equation itself grows, the step may add as much.
        if grown > allowed**2 + _ROUNDING:
            warnings.warn(
                f"{self.name}: a step of {self.scheme.name!r} with step_size={self.step_size:g} "
                f"multiplies small solutions by up to {grown:.4f}, the equation by "
                f"{allowed:.4f}. {self._remedy(spectrum)}",
                stacklevel=2,
            )

    def _growth_rate(self, spectrum):
        """Of the fastest growing solution of the equation."""
        return spectrum.real.max()

    def _remedy(self, spectrum):
        return "Lower step_size, or take a scheme of higher order, such as 'rk4'."

    def get_config(self):
        return {
            **super().get_config(),
            "step_size": self.step_size,
            "scheme": integrators.serialize(self.scheme),
        }


def _has_value(tensor):
    """False while a program is traced that builds the layer: its weights get values later."""
    try:
        ops.convert_to_numpy(tensor)
    except (NotImplementedError, TypeError):
        return False
    return True
