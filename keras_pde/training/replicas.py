"""What a training step must know about `tf.distribute`; without a strategy, one replica."""

import itertools

import keras
from keras import ops

from keras_pde import _keras
from keras_pde.optimizers.base_optimizer import BaseOptimizer
from keras_pde.training.slots import nested

_CRASHES = "it crashes in Keras (merge_call inside a condition)"
_CLIPS = "each replica's gradient is clipped before they are summed"
_UNSUPPORTED = {
    "gradient_accumulation_steps": _CRASHES,
    "ema_overwrite_frequency": _CRASHES,
    "clipnorm": _CLIPS,
    "global_clipnorm": _CLIPS,
    "clipvalue": _CLIPS,
}

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    def count() -> int:
        """Number of replicas whose gradients will be summed."""
        return tf.distribute.get_strategy().num_replicas_in_sync

    def index():
        """Number of this replica, an int32 scalar."""
        context = tf.distribute.get_replica_context()
        return ops.cast(context.replica_id_in_sync_group, "int32")

    def assign(variable, value):
        """Assigns what is the same on every replica."""

        def update(strategy, target, value):
            strategy.extended.update(target, lambda t, v: t.assign(v), args=(value,), group=False)

        if count() == 1:
            variable.assign(value)
        else:
            tf.__internal__.distribute.interim.maybe_merge_call(
                update, tf.distribute.get_strategy(), variable.value, value
            )

else:

    def count() -> int:
        """Number of replicas whose gradients will be summed."""
        return 1

    def index():
        """Number of this replica."""
        return 0


def check_supported(optimizer, model):
    """Refuses what Keras cannot do, or does wrongly, under a strategy of several replicas."""
    check_optimizer(optimizer)
    for layer in _keras.layers_of(model):
        if isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized:
            raise ValueError(
                f"Received the layer {layer.name!r} with synchronized=False under a strategy of "
                "several replicas, whose moving statistics would drift apart, so that the saved "
                "model is not the trained one. Build it with synchronized=True."
            )


def check_optimizer(optimizer):
    """The part of it that needs no model."""
    if isinstance(optimizer, keras.optimizers.ScheduleFreeAdamW):
        raise ValueError(
            "Received ScheduleFreeAdamW under a strategy of several replicas, where Keras reads "
            "its momenta after their update and trains something else. Use another, such as AdamW."
        )
    for part, (name, reason) in itertools.product(nested(optimizer), _UNSUPPORTED.items()):
        value = getattr(part, name)
        if reason is _CLIPS and isinstance(part, BaseOptimizer):
            continue  # which sums them first
        if value and (name != "ema_overwrite_frequency" or part.use_ema):
            raise ValueError(
                f"Received an optimizer with {name}={value} under a strategy of several replicas, "
                f"where {reason}. Create the optimizer without it."
            )


def among_largest(values, k):
    """Which of this replica's values, not negative, are among the `k` largest of all replicas'.

    `None` with one replica, where all are.

    Args:
        values: up to `k` numbers.
        k: Python integer.
    """
    if count() == 1:
        return None
    absent = -ops.ones((k,), dtype=values.dtype)
    mine = ops.concatenate([values, absent])[:k]
    rows = ops.one_hot(index(), count(), dtype=values.dtype)[:, None] * mine
    context = tf.distribute.get_replica_context()
    everyone = context.all_reduce(tf.distribute.ReduceOp.SUM, rows)
    return values >= ops.sort(ops.reshape(everyone, (-1,)))[-k]


def global_maximum(value):
    """The largest of the replicas' scalars, as a term whose *mean over replicas* is that maximum.

    Only the replica that holds it (the first, in a tie) keeps its value, times their number; the
    others contribute zero. So the gradient that reaches the weights is the maximum's own.
    """
    if count() == 1:
        return value
    mine = ops.one_hot(index(), count(), dtype=value.dtype)
    context = tf.distribute.get_replica_context()
    values = context.all_reduce(tf.distribute.ReduceOp.SUM, mine * ops.stop_gradient(value))
    wins = ops.equal(ops.cast(ops.argmax(values), "int32"), index())
    return ops.where(wins, value * count(), ops.zeros_like(value))
