"""What TensorFlow's strategies and sparse gradients ask of an optimizer; nothing elsewhere."""

import keras

from keras_pde import _keras

_TENSORFLOW = keras.backend.backend() == "tensorflow"


def number():
    """The number of this replica."""
    if not _TENSORFLOW:
        return 0
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return int(tf.get_static_value(context.replica_id_in_sync_group)) if context else 0


def dense(gradient):
    """The gradient as a tensor, where an embedding's comes as slices."""
    if not _TENSORFLOW:
        return gradient
    import tensorflow as tf

    return tf.convert_to_tensor(gradient)


def summed(value):
    """A scalar, summed over the replicas."""
    if not _TENSORFLOW:
        return value
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def summed_gradients(optimizer, gradients, variables):
    """Dense gradients, summed over the replicas."""
    if not _TENSORFLOW:
        return list(gradients)
    pairs = list(zip(map(dense, gradients), map(_native, variables), strict=True))
    return [gradient for gradient, _ in _keras.summed_over_replicas(optimizer, pairs)]


def update(optimizer, function, variables, *arguments):
    """`function(variable, *arguments)` for each variable, where assignments are allowed.

    Args:
        optimizer: the Keras optimizer.
        function: assigns to the variable, or to slots of its shape.
        variables: Keras variables.
        *arguments: lists with one entry a variable, which are the replica's own tensors.
    """
    rows = list(zip(map(_native, variables), *arguments, strict=True))
    if not _TENSORFLOW:
        for row in rows:
            function(*row)
        return
    import tensorflow as tf

    def merged(strategy, rows):
        for variable, *row in rows:
            strategy.extended.update(variable, function, args=tuple(row), group=False)

    tf.__internal__.distribute.interim.maybe_merge_call(merged, _keras.strategy_of(optimizer), rows)


def _native(variable):
    return variable.value if _TENSORFLOW and isinstance(variable, keras.Variable) else variable
