import warnings

import keras
import numpy as np

from keras_pde.layers.continuous import bases
from keras_pde.layers.continuous.continuous_block import ContinuousBlock
from keras_pde.layers.continuous.stacked_rate import StackedRate, numpy_of, unshared
from keras_pde.layers.stable.stable_rate import crude_norm, operator_norm

# Apart from the seeds of the pieces of one rate.
_NEXT_RATE = 1_000_003


class StableBlock(ContinuousBlock):
    """A continuous block whose equation is stable, and which knows its step's limit.

    Subclasses name the layers of their rate, dense and convolutional; the rank of the input
    decides. `scheme`, `step_size` and `spectrum()` are what `analysis.stability_report` reads.

    Args:
        settings: arguments of the rate, for the convolutional one.
        seed: integer that fixes the initial weights.
        **depth: of `ContinuousBlock`, and of `keras.layers.Layer`.
    """

    dense_rate: type
    convolutional_rate: type

    def __init__(self, settings, seed, **depth):
        # A placeholder: the rank of the input, known at build, decides about the rates.
        super().__init__(keras.layers.Identity(), seed=seed, **depth)
        checked = unshared(self.convolutional_rate(**settings).get_config())
        self._settings = {name: checked[name] for name in settings}

    def build(self, input_shape):
        self.rates.clear()
        self.rates.extend(
            StackedRate(rate, self.basis, self.num_basis, dtype=self.dtype_policy)
            for rate in self._rates(len(input_shape))
        )
        super().build(self._rate_shape(input_shape))
        self._warn_if_unstable()

    def _rates(self, rank):
        """The rate of each of the equations."""
        return [self._rate(rank)]

    def _rate_shape(self, input_shape):
        return tuple(input_shape)

    def _rate(self, rank, index=0, **settings):
        settings = {**self._settings, **settings}
        initializer = keras.initializers.get(settings.pop("kernel_initializer"))
        config = initializer.get_config()
        seed = config.get("seed") if self.seed is None else self.seed
        if "seed" in config and seed is not None:
            config["seed"] = seed + _NEXT_RATE * index
        kind = self.convolutional_rate
        if rank != 4:
            kind = self.dense_rate
            del settings["kernel_size"]
        initializer = type(initializer).from_config(config)
        return kind(kernel_initializer=initializer, dtype=self.dtype_policy, **settings)

    @property
    def step_size(self):
        """h, in units of time."""
        return self.horizon / self.steps

    def spectrum(self, norm=operator_norm):
        """Complex numbers around the eigenvalues of the linearised equation: a sampled curve.

        For the weights as they are at any stage, frozen there, and any slope of the activation.

        Args:
            norm: upper bound of ||K||_2 of a kernel.
        """
        raise NotImplementedError

    def _eigenvalue_range(self, norm, index=0):
        """Least and greatest of the range of that equation's rate, over all its stages."""
        if not self.rates[0].built:
            raise ValueError(
                f"Received {self.name!r} without weights; expected a layer that is built. Call it, "
                "or its model, on an input first."
            )
        stacked, parts = self.rates[index], self.scheme.parts
        nodes = [node for node, part in zip(self.scheme.nodes, parts, strict=True) if part == index]
        elements = stacked.basis.elements(stacked.count)
        rows = bases.rows(stacked.basis, stacked.count, self.steps, nodes)
        cells = bases.rows(bases.get("constant"), elements, self.steps, nodes)
        depths = np.concatenate([rows, cells], axis=-1).reshape(-1, stacked.count + elements)
        rate, stacks = stacked.template.layer, [numpy_of(s) for s in stacked.stacks]
        kept = [numpy_of(c) for c in stacked.cells]
        ranges = []
        for depth in np.unique(depths, axis=0):
            row, cell = np.split(depth, [stacked.count])
            values = {
                **_combined(row, rate.trainable_variables, stacks),
                **_combined(cell, rate.non_trainable_variables, kept),
            }
            ranges.append(rate.eigenvalue_range(lambda v, values=values: values[v.path], norm))
        least, greatest = np.transpose(ranges)
        return least.min(), greatest.max()

    def _warn_if_unstable(self):
        # The crude bound is quick, and enough for most.
        if self.scheme.is_stable(self.step_size * self.spectrum(crude_norm)):
            return
        z = self.step_size * self.spectrum()
        if not self.scheme.is_stable(z):
            growth = self.scheme.amplification(z).max()
            warnings.warn(
                f"{self.name}: with its initial weights, a step of {self.scheme.name!r} with h = "
                f"{self.step_size:g} can grow by a factor of {growth:.4g}; use more steps, a "
                "shorter horizon, smaller initial weights or another scheme. "
                "keras_pde.analysis.stability_report says how many steps suffice.",
                stacklevel=2,
            )

    def _like(self, **changes):
        return type(self)(**{**self.get_config(), **changes})

    def get_config(self):
        arguments = self._arguments()
        del arguments["initial"]  # of the rates, which are this layer's own
        return {**arguments, **self._settings}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def _combined(row, variables, stacks):
    return {v.path: np.tensordot(row, s, 1) for v, s in zip(variables, stacks, strict=True)}
