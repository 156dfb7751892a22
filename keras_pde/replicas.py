"""What `tf.distribute` asks of training steps, optimizers and layers; elsewhere, one replica.

Within a replica's step: its number and theirs, sums and maxima over all, and assignments of what is
the same on each.
"""

import keras
from keras import ops

from keras_pde import _keras

TENSORFLOW = keras.backend.backend() == "tensorflow"

if TENSORFLOW:
    import tensorflow as tf

    def count() -> int:
        """Number of replicas whose gradients will be summed."""
        return tf.distribute.get_strategy().num_replicas_in_sync

    def _context():
        return tf.distribute.get_replica_context()

    def number() -> int:
        """Number of this replica."""
        context = _context()
        return int(tf.get_static_value(context.replica_id_in_sync_group)) if context else 0

    def summed(value):
        """A tensor, summed over the replicas."""
        context = _context()
        if context is None or context.num_replicas_in_sync == 1:
            return value
        return context.all_reduce(tf.distribute.ReduceOp.SUM, value)

    def dense(gradient):
        """The gradient as a tensor, where an embedding's comes as slices."""
        return tf.convert_to_tensor(gradient)

    def summed_gradients(optimizer, gradients, variables) -> list:
        """Dense gradients, summed over the replicas."""
        pairs = list(zip(map(dense, gradients), map(_native, variables), strict=True))
        return [gradient for gradient, _ in _keras.summed_over_replicas(optimizer, pairs)]

    def _merged(strategy, function, rows):
        """`function(*row)` for each row, a native variable first, where assignments are allowed."""

        def merged(strategy, rows):
            for variable, *row in rows:
                strategy.extended.update(variable, function, args=tuple(row), group=False)

        tf.__internal__.distribute.interim.maybe_merge_call(merged, strategy, rows)

    def _native(variable):
        return variable.value if isinstance(variable, keras.Variable) else variable

    def update(optimizer, function, variables, *arguments):
        """`function(variable, *arguments)` for each variable, where assignments are allowed.

        Args:
            optimizer: the Keras optimizer.
            function: assigns to the variable, or to slots of its shape.
            variables: Keras variables.
            *arguments: lists with one entry a variable, which are the replica's own tensors.
        """
        rows = list(zip(map(_native, variables), *arguments, strict=True))
        _merged(_keras.strategy_of(optimizer), function, rows)

    def assign(variable, value):
        """Assigns what is the same on every replica."""
        if count() == 1:
            variable.assign(value)
        else:
            strategy = tf.distribute.get_strategy()
            _merged(strategy, lambda target, v: target.assign(v), [(variable.value, value)])

else:

    def count() -> int:
        return 1

    def number() -> int:
        return 0

    def summed(value):
        return value

    def dense(gradient):
        return gradient

    def summed_gradients(optimizer, gradients, variables) -> list:
        return list(gradients)

    def update(optimizer, function, variables, *arguments):
        for row in zip(variables, *arguments, strict=True):
            function(*row)

    def assign(variable, value):
        variable.assign(value)


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
    everyone = summed(_own_entry(values.dtype)[:, None] * mine)
    return values >= ops.sort(ops.reshape(everyone, (-1,)))[-k]


def global_maximum(value):
    """The largest of the replicas' scalars, as a term whose *mean over replicas* is that maximum.

    Only the replica that holds it (the first, in a tie) keeps its value, times their number; the
    others contribute zero. So the gradient that reaches the weights is the maximum's own.
    """
    if count() == 1:
        return value
    values = summed(_own_entry(value.dtype) * ops.stop_gradient(value))
    wins = ops.equal(ops.cast(ops.argmax(values), "int32"), number())
    return ops.where(wins, value * count(), ops.zeros_like(value))


def _own_entry(dtype):
    """A vector with a 1 at this replica's number."""
    return ops.one_hot(number(), count(), dtype=dtype)
