import tensorflow as tf
from keras import tree
from keras.utils import unpack_x_y_sample_weight

from keras_pde.training import averaging, replicas


class Hook:
    """The objective as a `train_step` on TensorFlow."""

    def train_step(self, data):
        x, y, sample_weight = unpack_x_y_sample_weight(data)
        if not self.built:
            self(x, training=False)  # creates the weights; the values are not used
        variables = self.model.trainable_variables
        trainable = [tf.convert_to_tensor(v.value) for v in variables]
        state = self.model.non_trainable_variables
        non_trainable = [tf.convert_to_tensor(v.value) for v in state]
        step = self._step(trainable, non_trainable, x, y, sample_weight, self.optimizer.iterations)
        self._assert_in_bounds(step.x)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(trainable)
            loss, main = self._objective_loss(x, y, sample_weight, step)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, trainable)
        for variable, old, new in zip(state, non_trainable, main.updates, strict=True):
            if new is not old:
                variable.assign(new)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        for average, variable in self._averages():
            new = averaging.updated(average, variable, self.average, self.optimizer.iterations)
            replicas.assign(average, new)
        # Replicas' gradients are summed, so each holds its share of the loss.
        total = loss * tf.cast(self.distribute_strategy.num_replicas_in_sync, loss.dtype)
        self._loss_tracker.update_state(total, sample_weight=tf.shape(tree.flatten(x)[0])[0])
        return self.compute_metrics(x, y, main.outputs, sample_weight=sample_weight)

    def fit(self, *args, **kwargs):
        try:
            return super().fit(*args, **kwargs)
        except tf.errors.InvalidArgumentError as error:
            if self._outside() in str(error):
                raise ValueError(self._outside()) from None
            raise

    def _outside(self):
        return (
            f"Received images outside {self.objective.data.bounds}, the `bounds` of the objective; "
            "expected images scaled to them (divide by 255, normalise inside the model), or pass "
            "`bounds=` of your own units (epsilon is then in those units too)."
        )

    def _assert_in_bounds(self, x):
        """Catches images of the wrong scale that come from a dataset, in the first step."""
        bounds = self.objective.data.bounds
        if bounds is not None:
            low, high = (tf.cast(b, x.dtype) for b in bounds)
            tf.debugging.assert_greater_equal(tf.reduce_min(x), low - 1e-5, self._outside())
            tf.debugging.assert_less_equal(tf.reduce_max(x), high + 1e-5, self._outside())
