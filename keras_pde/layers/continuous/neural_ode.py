import keras
import numpy as np
from keras import ops

from keras_pde import _keras, integrators
from keras_pde.checks import check_count, check_flag, check_number, optional
from keras_pde.layers.continuous.stacked_rate import (
    build_by_state,
    configuration,
    takes_mask,
    takes_time,
)
from keras_pde.odeint import checks
from keras_pde.odeint.odeint import odeint, scheme_of
from keras_pde.registry import register


@register(
    "layer",
    "neural_ode",
    rate=keras.layers.Dense(4, activation="tanh", name="rate"),
    times=[0.0, 0.3, 0.5],
    method="bosh3",
    rtol=1e-3,
    atol=1e-4,
    steps=3,
    max_steps=99,
    trajectory=True,
)
class NeuralODE(keras.layers.Layer):
    """An ordinary differential equation whose right-hand side is a layer, with adaptive steps.

    The output is y at the last of the times, or at all of them, of

        dy/dt = rate(t, y),    y(times[0]) = input,

    by `keras_pde.odeint`, in which each example has steps of its own. The weights are the same at
    all times; `ContinuousBlock` has weights that depend on depth, and a fixed number of steps. The
    rate is called in inference mode, since its state must not change on the way; masks reach rates
    whose `call` takes one.

    Source: Chen, Rubanova, Bettencourt and Duvenaud, "Neural ordinary differential equations", 2018
    (arXiv 1806.07366); the gradient is that of the steps made, not of an adjoint equation.

    Args:
        rate: Keras layer or `Sequential` that keeps the shape of its input; or a layer of your own
            with `call(self, t, y)`, t of shape `(batch, 1, ..., 1)`.
        times: increasing or decreasing, at least two.
        method, rtol, atol, steps: as in `keras_pde.odeint`; with `steps`, equal ones between two
            times.
        max_steps: number of steps, rejected ones included, that an example may take.
        trajectory: whether the output has all times.

    Input shape: `(batch, ...)`. Output shape: the same; with `trajectory` `(batch, times, ...)`.

    Raises:
        ValueError: an argument is out of range, the rate changes the shape, or an example does not
            arrive. Compiled code cannot raise: there, what it does not reach is NaN.

    Example:

    >>> rate = keras.Sequential([keras.layers.Dense(32, "tanh"), keras.layers.Dense(16)])
    >>> y = kp.layers.NeuralODE(rate, times=[0.0, 1.0])(x)
    """

    def __init__(
        self,
        rate,
        times,
        method="dopri5",
        rtol=1e-5,
        atol=1e-6,
        steps=None,
        max_steps=256,
        trajectory=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not isinstance(rate, keras.layers.Layer):
            raise ValueError(
                f"Received rate={rate!r}; expected a Keras layer or Sequential. Wrap a function in "
                "a layer of your own, so that its weights are known."
            )
        self.rate = rate
        self.supports_masking = True
        if np.ndim(times) != 1:
            raise ValueError(f"Received times={times!r}; expected at least two, as in [0.0, 1.0].")
        self.times = [check_number(t, "a time") for t in times]
        self.method = integrators.RungeKutta(**method) if isinstance(method, dict) else method
        self.rtol, self.atol = (
            check_number(value, name, above=0) for name, value in (("rtol", rtol), ("atol", atol))
        )
        self.steps = optional(check_count, steps, "steps")
        self.max_steps = check_count(max_steps, "max_steps")
        self.trajectory = check_flag(trajectory, "trajectory")
        self._check()

    def _check(self):
        """Refuses early what `odeint` would refuse."""
        checks.times(self.times, "float32")
        if scheme_of(self.method, self.steps, None)[1]:
            checks.tolerances(self.rtol, self.atol, self.max_steps, ["float32"])

    def _settings(self):
        names = ("method", "rtol", "atol", "steps", "max_steps")
        return {name: getattr(self, name) for name in names}

    def build(self, input_shape):
        build_by_state(self.rate, (None, *input_shape[1:]))
        self.rate.supports_masking = True  # which this layer takes care of
        y = keras.KerasTensor((None, *input_shape[1:]), dtype=self.compute_dtype)
        t = keras.KerasTensor((None,) + (1,) * (len(input_shape) - 1), dtype="float32")
        shape = tuple(self.rate(*([t] * takes_time(self.rate)), y).shape)
        if shape[1:] != tuple(input_shape[1:]):
            raise ValueError(
                f"Received rate {self.rate.name!r}, which maps {tuple(input_shape[1:])} to "
                f"{shape[1:]}; expected a layer that keeps the shape, since it is dy/dt."
            )

    def call(self, inputs, mask=None):
        mode = {"training": False} if _keras.takes_training(self.rate) else {}

        if mask is not None and takes_mask(self.rate):
            mode["mask"] = mask

        def slope(t, y):
            return self.rate(*([t] * takes_time(self.rate)), y, **mode)

        y = odeint(slope, inputs, self.times, batched=True, **self._settings())
        return ops.moveaxis(y, 0, 1) if self.trajectory else y[-1]

    def compute_mask(self, inputs, mask=None):
        if mask is None or not self.trajectory:
            return mask
        return ops.repeat(ops.expand_dims(mask, 1), len(self.times), axis=1)

    def compute_output_shape(self, input_shape):
        batch, *rest = input_shape
        return (batch, *([len(self.times)] * self.trajectory), *rest)

    def get_config(self):
        return {
            **super().get_config(),
            "rate": configuration(self.rate),
            "times": self.times,
            **self._settings(),
            "method": self.method if isinstance(self.method, str) else self.method.get_config(),
            "trajectory": self.trajectory,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "rate": keras.saving.deserialize_keras_object(config["rate"])})
