import warnings

import keras
from keras import ops

from keras_pde import _keras, cost, graph, integrators
from keras_pde.checks import (
    check_choice,
    check_count,
    check_flag,
    check_number,
    check_seed,
    optional,
)
from keras_pde.layers.batch_norm import moving_statistics
from keras_pde.layers.continuous import bases, loops
from keras_pde.layers.continuous.stacked_rate import StackedRate, configuration, takes_time
from keras_pde.layers.continuous.sweep import Sweep
from keras_pde.registry import register, unknown_name

# Stage evaluations up to which a loop is written out: tracing is then quick, and the step faster.
_WRITTEN_OUT = 16


@register(
    "layer",
    "continuous_block",
    rate=keras.layers.Dense(4, activation="tanh", name="rate"),
    steps=4,
    scheme="heun",
    basis="hat",
    num_basis=3,
    horizon=0.5,
    memory="remat",
    unroll=False,
    seed=1,
    initial="rate",
)
class ContinuousBlock(keras.layers.Layer):
    """A residual stage as an ordinary differential equation in depth, around any Keras layer.

    The output is y(T) of

        y'(t) = R(theta(t / T); y(t)),    y(0) = input,    theta(s) = sum_k phi_k(s) theta_k,

    integrated by `steps` equal steps of a Runge-Kutta scheme. Every weight of the rate R has K
    coefficients theta_k, in a basis of functions of depth; so the number of weights does not depend
    on the number of steps, and a trained block can be run with other steps and schemes. With
    `scheme="euler"`, `basis="constant"`, `num_basis=steps` and `horizon=steps` it is a residual
    network. Batch normalization in the rate keeps its statistics for each element of depth.

    Sources: Queiruga et al., "Continuous-in-depth neural networks", 2020 (arXiv 2008.02389), and
    "Stateful ODE-Nets using basis function expansions", 2021 (arXiv 2106.10820).

    Args:
        rate: Keras layer or `Sequential` that keeps the shape of its input, or a layer of your own
            with `call(self, t, y)`, t the time in [0, horizon]. Its configuration is used: each
            coefficient is a fresh draw of its weights. One that cannot be made from a configuration
            is used itself, and its coefficients are its own weights.
        steps: number N of steps.
        scheme: name of `keras_pde.integrators`, or a `RungeKutta` of one's own.
        basis: `"constant"`, `"hat"`, `"discontinuous_linear"`, `"polynomial"`, `"fourier"` or
            `"bspline"`.
        num_basis: number K of coefficients; default `steps`.
        horizon: T, the time from input to output, > 0. To run backwards, negate the rate.
        memory: what is kept for the gradient: `"store"`, `"remat"`, `"checkpoint"` or
            `"reversible"` (for schemes that can be undone); see docs/equations.md.
        unroll: whether to write the loop out; None for up to 16 evaluations of the rate, and
            wherever a compiled loop cannot be used.
        seed: integer for random layers in the rate, such as dropout; None for another one at each
            start.
        initial: `"fresh"`: each coefficient is a draw of its own; `"rate"`: all of them are the
            weights of the rate, such as a trained one, as of a network whose layers share weights.

    Masks pass through, and into rates whose `call` takes one.

    Input and output shape: `(batch, ...)`, that of the rate.

    Raises:
        ValueError: an argument is out of range, the rate changes the shape, there are fewer steps
            than coefficients that need them, or the memory mode does not fit the scheme.

    Example:

    >>> rate = keras.Sequential([kp.layers.batch_norm(), keras.layers.ReLU(),
    ...                          keras.layers.Conv2D(16, 3, padding="same", use_bias=False)])
    >>> x = kp.layers.ContinuousBlock(rate, steps=8, scheme="rk4", num_basis=4)(x)
    """

    def __init__(
        self,
        rate,
        steps,
        scheme="rk4",
        basis="constant",
        num_basis=None,
        horizon=1.0,
        memory="store",
        unroll=None,
        seed=None,
        initial="fresh",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not isinstance(rate, keras.layers.Layer):
            raise ValueError(
                f"Received rate={rate!r}; expected a Keras layer or Sequential. Wrap a function in "
                "a layer of your own, so that its weights are known."
            )
        self.steps = check_count(steps, "steps")
        if memory not in loops.MEMORY:
            raise unknown_name("memory mode", memory, loops.MEMORY)
        self.horizon = check_number(horizon, "horizon", above=0)
        self.scheme = integrators.get(scheme)
        self.basis = bases.get(basis)
        self.num_basis = self.steps if num_basis is None else num_basis
        self.basis.check(self.num_basis)
        self._check_steps(self.steps)
        if memory == "reversible" and not self.scheme.reversible:
            reversible = [n for n in integrators.names() if integrators.get(n).reversible]
            raise ValueError(
                f"Received memory='reversible' with scheme={self.scheme.name!r}, whose steps "
                f"cannot be undone; expected one of {reversible}, or memory='remat'."
            )
        self.memory, self.seed = memory, optional(check_seed, seed)
        self.unroll = optional(check_flag, unroll, "unroll")
        self.initial = check_choice(initial, "initial", ("fresh", "rate"))
        self.rates = [
            StackedRate(
                rate,
                self.basis,
                self.num_basis,
                initial=initial,
                dtype=self.dtype_policy,
            )
        ]
        self.supports_masking = True

    changes = 0  # how often `change_depth` was called; what was compiled before is of the old depth

    def _check_steps(self, steps):
        if not self.basis.local and self.num_basis > steps:
            raise ValueError(
                f"Received steps={steps} with num_basis={self.num_basis} of basis="
                f"{self.basis.name!r}; expected at least as many steps as coefficients, which "
                "nothing determines otherwise. Lower num_basis."
            )

    def build(self, input_shape):
        self._check_fields(self.scheme)
        for rate in self.rates:
            if not rate.built:
                rate.build(input_shape)
            if not self.trainable:  # as a configuration said, before there were rates
                rate.trainable = False
        if any(rate.seed_count for rate in self.rates):
            self.seed_generator = keras.random.SeedGenerator(self.seed)
        self._warn_of_cuts()

    def _check_fields(self, scheme):
        fields = max(scheme.parts) + 1
        if fields != len(self.rates):
            raise ValueError(
                f"Received scheme={scheme.name!r}, which is for {fields} fields; this layer "
                f"has {len(self.rates)}. Expected another scheme of "
                f"{integrators.names(fields=len(self.rates))}."
            )

    def _warn_of_cuts(self):
        if bases.cuts_elements(self.basis, self.num_basis, self.steps) and self.scheme.order > 1:
            elements = self.basis.elements(self.num_basis)
            warnings.warn(
                f"{self.name}: {self.steps} steps cut the {elements} elements of its basis, so "
                f"{self.scheme.name!r} is of order 1 instead of {self.scheme.order} there; use a "
                f"multiple of {elements} steps.",
                stacklevel=3,
            )

    def change_depth(self, **changes):
        """Changes `steps`, `scheme`, `basis` or `num_basis` of the built block, in place.

        Weights are projected onto the new basis. Programs that were compiled before still have the
        old depth: `refine`, `project` and `with_solver` make a new model instead, and
        `callbacks.RefineDepth` does what is needed in a training.

        Raises:
            ValueError: the block could not have been made with these arguments.
        """
        new = self._like(**changes)  # refuses what is wrong
        self._check_fields(new.scheme)
        if (new.basis, new.num_basis) != (self.basis, self.num_basis):
            for rate in self.rates:
                rate.transfer(new.basis, new.num_basis)
        self.steps, self.scheme = new.steps, new.scheme
        self.basis, self.num_basis = new.basis, new.num_basis
        self.changes += 1
        self._warn_of_cuts()

    def _like(self, **changes):
        """A block with these arguments and others as in this one, around some rate."""
        return type(self)(keras.layers.Identity(), **{**self._arguments(), **changes})

    def call(self, inputs, training=None, mask=None):
        y = ops.cast(inputs, self._state_dtype)
        y = self._leave(self._solve(self._enter(y), training, mask))
        return ops.cast(y, self.compute_dtype)

    def _enter(self, y):
        return y

    def _leave(self, y):
        return y

    @property
    def _state_dtype(self):
        return keras.backend.result_type(self.compute_dtype, "float32")

    def _solve(self, y, training, mask=None):
        """The state after all steps, from y, which is a tensor or the pair of a pair scheme."""
        sweep = Sweep(self, self._writes_out(), training, mask)
        state, log, first = sweep.start(y)
        state, log = loops.run(
            sweep.step,
            state,
            log,
            sweep.weights,
            first,
            self.steps,
            sweep.unroll,
            self.memory,
            sweep.back,
        )
        sweep.finish(log)
        return self.scheme.end(state)

    def moving_statistics(self):
        """(variable, momentum) of the moving statistics of the rates' normalizations."""
        found = []
        for rate in self.rates:
            inner = moving_statistics(_keras.layers_of(rate.template.layer))
            momenta = {id(variable): momentum for variable, momentum in inner}
            pairs = zip(rate.template.kept, rate.cells, strict=True)
            found += [(cell, momenta[id(v)]) for v, cell in pairs if id(v) in momenta]
        return found

    def _writes_out(self):
        """Whether the steps are written out instead of looped over by the compiled program."""
        if self.unroll is not None:
            return self.unroll
        return self.steps * self.scheme.stages <= _WRITTEN_OUT or loops.must_write_out(self.rates)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        rate = self.rates[0].template.layer
        return {**self._arguments(), "rate": configuration(rate)}

    def _arguments(self):
        """Those of the constructor, without the rate."""
        return {
            **super().get_config(),
            "steps": self.steps,
            "scheme": integrators.serialize(self.scheme),
            "basis": self.basis.name,
            "num_basis": self.num_basis,
            "horizon": self.horizon,
            "memory": self.memory,
            "unroll": self.unroll,
            "seed": self.seed,
            "initial": self.initial,
        }

    @classmethod
    def from_config(cls, config):
        rate = keras.saving.deserialize_keras_object(config["rate"])
        return cls(**{**config, "rate": rate})


@graph.rule("cost", ContinuousBlock, subclasses=True)
def _cost(block, args, output):
    """Of the rates, at each stage of each step."""
    total = 0
    for part, stacked in enumerate(block.rates):
        # At the size of this call; the channels may be but a part of the state's.
        shape = (1, *args[0].shape[1:-1], stacked.shape[-1])
        image = keras.KerasTensor(shape, dtype=block.compute_dtype)
        layer = stacked.template.layer
        time = [keras.KerasTensor((), dtype=block.compute_dtype)] * takes_time(layer)
        rate = cost.of(layer, *time, image)
        total += block.steps * block.scheme.parts.count(part) * rate
    return total
