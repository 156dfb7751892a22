import keras
from keras import ops

from keras_pde import _keras, replicas
from keras_pde.compiled import known
from keras_pde.training import image_range
from keras_pde.training.step import Step


class ObjectiveLoss:
    """The total loss of a batch by an objective: what the steps of both backends differentiate.

    Args:
        perturbed: the `Perturbed` of the network.
        objective: an `Objective`.
        seed: integer; noise is a function of (seed, training step, example).

    Attributes:
        trackers: a metric for each term.
        outside: metric; the share of steps with images out of range.
        example_loss: `(y, outputs) -> (batch,)`, the compiled loss; set by `compile`.
    """

    def __init__(self, perturbed, objective, seed):
        self.perturbed, self.objective, self.seed = perturbed, objective, seed
        self.trackers = [keras.metrics.Mean(name=name) for name in objective.names]
        self.outside = keras.metrics.Mean(name="images_outside_bounds")
        self.example_loss = None

    def step(self, trainable, non_trainable, x, y, sample_weight, iteration) -> Step:
        """The batch, with the values of the network's variables."""
        check_single(y, "y")
        if self.perturbed.is_plain:
            check_single(x, "x")
        x = keras.tree.map_structure(ops.convert_to_tensor, x)
        return Step(
            self.perturbed,
            self.example_loss,
            trainable,
            non_trainable,
            x,
            ops.convert_to_tensor(y),
            sample_weight,
            self.seed,
            iteration,
            self.objective.data.statistics,
        )

    def __call__(self, trainer, step, x, y, sample_weight, unless):
        """Runs the objective; the total loss (scaled for replicas), that to log, and the main pass.

        Term trackers are updated on the way.

        Args:
            trainer: the compiled Keras model, whose loss, weights and reduction it is.
            step: from `step`.
            x, y, sample_weight: the batch, as the trainer got it.
            unless: function of whether images are out of range and of the images, which returns
                the images, or stops the step.
        """
        outside = image_range.outside(step.x, self.objective.image_range)
        step.x = unless(outside, step.x)
        self.outside.update_state(outside)
        # A replica may be left without examples, over which means are NaN.
        none = ops.equal(step.batch_size(), 0)
        penalties = [ops.where(none, ops.zeros_like(p), p) for p in self.objective(step)]
        main = step.main
        # The trainer's own loss, with the regularisers of the main pass (Keras' JAX trainer hands
        # them over in the same way).
        with _keras.regularisers(trainer, main.extra_losses):
            loss = trainer.compute_loss(x, y, main.outputs, sample_weight, training=True)
        # The data term is what the compiled loss made of it: its weights and its reduction.
        extra = sum(_keras.as_added(trainer, value) for value in main.extra_losses)
        count = replicas.count()
        data, shown = (loss - extra) * count, loss * count
        # A penalty is the mean over replicas, however many examples each has; logs count examples.
        means = [replicas.summed(ops.stop_gradient(p)) / count for p in penalties]
        for tracker, value in zip(self.trackers, [data, *means], strict=True):
            tracker.update_state(value, sample_weight=step.batch_size())
        for penalty, mean in zip(penalties, means, strict=True):
            loss = loss + ops.cast(penalty, loss.dtype) / count
            shown = shown + ops.cast(mean, loss.dtype)
        return loss, shown, main

    @property
    def range_error(self) -> str:
        """What is wrong with images out of range."""
        return image_range.message(self.objective.image_range)

    def checked(self, results):
        """Metrics' results by name, without what is no metric of the user's.

        Raises:
            ValueError: a step since the last reset had images out of range.
        """
        outside = known(results.pop(self.outside.name))
        if outside is not None and outside > 0:
            raise ValueError(self.range_error)
        return results


def check_single(value, what):
    """Refuses what is not one tensor."""
    if value is None or isinstance(value, dict | list | tuple):
        received = "None" if value is None else f"a {type(value).__name__}"
        raise ValueError(
            f"Received {what} as {received}; `RobustModel` needs one tensor, since perturbations "
            "and input gradients are about one input and one output; of several inputs, name one "
            "by perturb=..."
        )


def per_example(loss):
    """`(y, outputs) -> (batch,)` from anything that `compile` takes as a loss."""
    if loss is None or isinstance(loss, dict | list | tuple):
        raise ValueError(f"Received loss={loss!r}; expected one loss, for one output.")
    loss = keras.losses.get(loss)
    call = loss.call if isinstance(loss, keras.losses.Loss) else loss
    dtype = getattr(loss, "dtype", keras.config.floatx())

    def losses(y, outputs, weight=None):
        y, outputs = ops.cast(y, dtype), ops.cast(outputs, dtype)
        if len(y.shape) == len(outputs.shape) - 1 and outputs.shape[-1] == 1:
            y = ops.expand_dims(y, -1)  # (batch,) against (batch, 1) would broadcast to a square
        values = call(y, outputs)
        if len(values.shape) == 0:
            raise ValueError(
                f"Received a loss function ({loss}) that returns one number for the whole batch; "
                "expected one for each example: do not average over the batch."
            )
        if weight is not None:
            weight = ops.cast(weight, values.dtype)
            if len(weight.shape) == len(values.shape) + 1 and weight.shape[-1] == 1:
                weight = ops.squeeze(weight, -1)
            if len(weight.shape) != len(values.shape):
                raise ValueError(
                    f"Received sample weights of shape {tuple(weight.shape)} for losses of shape "
                    f"{tuple(values.shape)}; expected a weight for each, or one an example."
                )
            values = values * weight
        return ops.mean(ops.reshape(values, (ops.shape(outputs)[0], -1)), axis=1)

    return losses
