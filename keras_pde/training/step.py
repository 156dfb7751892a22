"""One evaluation of an objective on one batch, written on pure calls.

Every forward pass takes the current values of the variables and returns the new ones instead of
assigning them. So each pass of a step sees the same dropout masks, which pass
updates BatchNormalization is a choice (the main one), and the same code runs on TensorFlow and JAX.
"""

from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import ops

from keras_pde import _keras, noise, replicas
from keras_pde.autodiff import value_and_grad
from keras_pde.layers import ContinuousBlock
from keras_pde.layers.batch_norm import moving_statistics


@dataclass
class Pass:
    """A forward pass: per-example losses and, if asked for, their gradients in the images.

    `updates` has the new value of each non-trainable variable and `writes` how often it was
    assigned; `assigned` has the values of the trainable ones (by number) that a layer assigns.
    """

    x: Any
    losses: Any
    outputs: Any
    updates: list
    writes: list
    extra_losses: list
    assigned: dict
    gradient: Any = None

    def part(self, index) -> "Pass":
        """The examples of those numbers."""
        x, losses, gradient = (
            ops.take(t, index, axis=0) for t in (self.x, self.losses, self.gradient)
        )
        return replace(self, x=x, losses=losses, gradient=gradient)


class Step:
    """The batch, the values of the variables, and the passes over them.

    Args:
        perturbed: the `Perturbed` of a built Keras model.
        example_loss: `(y, outputs) -> (batch,)` losses; weights of positions are a third argument,
            with which they are weighted means.
        trainable: values of the model's trainable variables.
        non_trainable: values of its non-trainable variables.
        inputs, y, sample_weight: the batch; `sample_weight` may be `None`.
        seed: Python integer.
        iteration: integer scalar tensor; noise is a function of (seed, iteration, example).
        crafting: statistics of BatchNormalization for crafting, `"inference"` or `"batch"`.

    Attributes:
        x: what is perturbed, "images" in what follows: the inputs, or what `perturbed` says.
    """

    def __init__(
        self,
        perturbed,
        example_loss,
        trainable,
        non_trainable,
        inputs,
        y,
        sample_weight,
        seed,
        iteration,
        crafting="inference",
    ):
        self.perturbed, self.model = perturbed, perturbed.model
        self.example_loss = example_loss
        self.trainable = list(trainable)
        self.non_trainable = list(non_trainable)
        self.inputs, self.y = inputs, y
        self.x = self._start()
        self.weight = None if sample_weight is None else ops.cast(sample_weight, self.x.dtype)
        # Weights of positions are part of each example's loss, and so of its gradient.
        self._of_positions = self.weight is not None and any(s != 1 for s in self.weight.shape[1:])
        self.seed, self.iteration = seed, ops.cast(iteration, "int32")
        self.main: Pass | None = None
        self._perturbs = False
        self._clean = None
        self._statistics = None
        # The state that crafting sees; with batch statistics, once its first pass has found them.
        self._crafting_state = self.non_trainable if crafting == "inference" else None

    def _start(self):
        if self.perturbed.at is None:
            x = self.perturbed.chosen(self.inputs)
        else:
            x = _keras.stateless_call(
                self.model,
                self.trainable,
                self.non_trainable,
                self.inputs,
                call=self.perturbed.start,
                **self._mode(training=False),
            )[0]
        x = x if keras.backend.is_float_dtype(x.dtype) else ops.cast(x, keras.config.floatx())
        return ops.stop_gradient(x)

    def _mode(self, training):
        return {"training": training} if _keras.takes_training(self.model) else {}

    # Passes

    def run(
        self, x, *, training, gradient=False, frozen=False, index=None, non_trainable=None
    ) -> Pass:
        """One pass.

        Args:
            x: images; with `index`, those of the examples it names.
            training: whether layers are in training mode.
            gradient: whether the gradient of each loss in its image is wanted.
            frozen: whether the weights are constants (crafting does not train).
            index: numbers of the examples, default all.
            non_trainable: values that replace the step's own.
        """
        trainable = [ops.stop_gradient(v) for v in self.trainable] if frozen else self.trainable
        state = self.non_trainable if non_trainable is None else non_trainable
        y, inputs, around = self.y, self.inputs, self.x
        if index is not None:
            y, inputs, around = keras.tree.map_structure(
                lambda t: ops.take(t, index, axis=0), (y, inputs, around)
            )

        def forward(images):
            outputs, *rest = _keras.stateless_call(
                self.model,
                trainable,
                state,
                images,
                inputs,
                around,
                call=self.perturbed.call,
                **self._mode(training),
            )
            losses = self.example_loss(y, outputs, *self._position_weights(index))
            return ops.sum(losses), (losses, outputs, *rest)

        if gradient:
            (_, aux), slope = value_and_grad(forward, x, has_aux=True)
        else:
            aux, slope = forward(x)[1], None
        return Pass(x, *aux, slope)

    @property
    def clean(self) -> Pass:
        """Pass and gradient at the clean images; crafting and selection share it."""
        if self._clean is None:
            self._clean = self._craft(self.x)
        return self._clean

    def crafting_gradient(self, images):
        """Gradient of each loss at other images, for constant weights."""
        return self._craft(images).gradient

    def _craft(self, images):
        """In inference mode; with batch statistics those of the first images, in training mode."""
        options = {"gradient": True, "frozen": True}
        if self._crafting_state is None:
            # Without normalizations, training mode would add but dropout.
            if moving := self._moving_statistics(stacked=True):
                first, _, state = self._with_batch_statistics(images, moving, **options)
                self._crafting_state = [ops.stop_gradient(v) for v in state]
                return first
            self._crafting_state = self.non_trainable
        state = self._crafting_state
        return self.run(images, training=False, non_trainable=state, **options)

    def both_statistics(self, x):
        """Outputs in inference mode, with the moving statistics and with those of these images."""
        moving = self._moving_statistics(stacked=True)
        state = self._with_batch_statistics(x, moving)[2]
        return tuple(
            self.run(x, training=False, non_trainable=values).outputs for values in (None, state)
        )

    def run_main(self, x, perturbed, gradient, statistics):
        """The training-mode pass that updates BatchNormalization and feeds loss and metrics.

        Args:
            x: clean or perturbed images.
            perturbed: whether they are perturbed.
            gradient: whether a penalty shares this pass's gradient.
            statistics: whether a penalty needs this pass's batch statistics.
        """
        self._perturbs = perturbed
        if not statistics:
            self.main = self.run(x, training=True, gradient=gradient)
            return
        main, moving, self._statistics = self._with_batch_statistics(
            x, self._moving_statistics(), gradient=gradient
        )
        updates = list(main.updates)
        for i, kept in moving.items():
            updates[i] = kept * self.non_trainable[i] + main.updates[i]
        self.main = replace(main, updates=updates)

    def _with_batch_statistics(self, x, moving, **options):
        """A pass in training mode on old moving statistics of zero.

        Returns:
            The pass; of those of `moving` that it updates, which part of the old value is kept;
            the step's state with its statistics, which of a layer that is called several times
            are a mean.
        """
        # The moving average is linear, new = m old + (1 - m) batch. Old values of zero (which
        # training mode does not read) give the batch statistics without cancellation; n calls
        # leave m^n of the old value.
        zeroed = [ops.zeros_like(v) if i in moving else v for i, v in enumerate(self.non_trainable)]
        found = self.run(x, training=True, non_trainable=zeroed, **options)
        # Layers called with `training=False` (fine-tuning) did read them: run again without those.
        updated = {i: m for i, m in moving.items() if found.writes[i]}
        if updated != moving:
            moving = updated
            zeroed = [zeroed[i] if i in moving else v for i, v in enumerate(self.non_trainable)]
            found = self.run(x, training=True, non_trainable=zeroed, **options)
        kept = {i: momentum ** found.writes[i] for i, momentum in moving.items()}
        state = list(self.non_trainable)
        for i, share in kept.items():
            state[i] = found.updates[i] / (1.0 - share)
        return found, kept, state

    def penalised(self, at, statistics, index=None, gradient=True) -> Pass:
        """The pass whose losses a penalty differentiates, shared with the main pass if it can be.

        Args:
            at: `"clean"` or `"perturbed"` images.
            statistics: `"inference"`: moving statistics. `"batch"`: training mode; for a part of
                the batch (`index`), inference mode with the main pass's batch statistics, through
                which gradients flow.
            index: numbers of the examples, default all.
        """
        if index is None and statistics == "batch" and self.is_main(at):
            return self.main
        x = self.main.x if self.is_main(at) else self.x
        if index is None:
            return self.run(x, training=statistics == "batch", gradient=gradient)
        x = ops.take(x, index, axis=0)
        return self.run_partial(x, statistics, index, gradient)

    def run_partial(self, x, statistics, index, gradient=False) -> Pass:
        """Inference-mode pass over a part of the batch, with the statistics named."""
        state = self._statistics if statistics == "batch" else None
        return self.run(x, training=False, gradient=gradient, index=index, non_trainable=state)

    def is_main(self, at) -> bool:
        """Whether the main pass ran on these images."""
        return at == "perturbed" or not self._perturbs

    def main_is_deterministic(self) -> bool:
        """Whether training mode differs from inference mode by batch statistics only."""
        moving = self._moving_statistics()
        return all(
            new is old or i in moving
            for i, (new, old) in enumerate(zip(self.main.updates, self.non_trainable, strict=True))
        )

    def _moving_statistics(self, stacked=False) -> dict[int, float]:
        """Position among the non-trainable variables -> momentum, of what training updates.

        Args:
            stacked: whether to name those within continuous blocks too, whose elements that no
                step visits have no update.
        """
        position = {id(v): i for i, v in enumerate(self.model.non_trainable_variables)}
        layers = _keras.layers_of(self.model)
        found = moving_statistics(layers)
        if stacked:
            for block in (layer for layer in layers if isinstance(layer, ContinuousBlock)):
                found += block.moving_statistics() if block.trainable else []
        return {position[id(variable)]: momentum for variable, momentum in found}

    # The batch

    def batch_size(self):
        """Examples on this replica."""
        return ops.shape(self.x)[0]

    def keys(self, purpose):
        """Noise keys of the examples; `purpose` (a small integer) separates uses within a step."""
        size = self.batch_size()
        examples = ops.arange(size, dtype="int32") + replicas.number() * size
        return noise.keys(self.seed, self.iteration * 8 + purpose, examples)

    def _position_weights(self, index):
        if not self._of_positions:
            return ()
        return (self.weight if index is None else ops.take(self.weight, index, axis=0),)

    def weighted(self, values, index=None):
        """Per-example values times the sample weights, unless these are in the losses already."""
        if self.weight is None or self._of_positions:
            return values
        weight = ops.cast(ops.reshape(self.weight, (-1,)), values.dtype)
        return values * (weight if index is None else ops.take(weight, index, axis=0))
