import tensorflow as tf
from keras import tree
from keras.utils import unpack_x_y_sample_weight

from keras_pde import _keras, replicas
from keras_pde.training import averaging


class Hook:
    """`train_step` on TensorFlow of a model that holds an `objective_loss`."""

    def train_step(self, data):
        x, y, sample_weight = unpack_x_y_sample_weight(data)
        if not self.built:
            self(x, training=False)  # creates the weights; the values are not used
        variables = self.model.trainable_variables
        trainable = [tf.convert_to_tensor(v.value) for v in variables]
        state = self.model.non_trainable_variables
        non_trainable = [tf.convert_to_tensor(v.value) for v in state]
        step = self.objective_loss.step(
            trainable, non_trainable, x, y, sample_weight, self.optimizer.iterations
        )
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(trainable)
            loss, shown, main = self.objective_loss(self, step, x, y, sample_weight, self._unless)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, trainable)
        for variable, old, new in zip(state, non_trainable, main.updates, strict=True):
            if new is not old:
                variable.assign(new)
        for number, value in main.assigned.items():
            replicas.assign(variables[number], value)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        for average, variable in averaging.pairs(self.averaged, self.model):
            new = averaging.updated(average, variable, self.average, self.optimizer.iterations)
            replicas.assign(average, new)
        _keras.track_loss(self, shown, tf.shape(tree.flatten(x)[0])[0])
        return self.compute_metrics(x, y, main.outputs, sample_weight=sample_weight)

    def make_train_function(self, force=False):
        # What is created within the first traced step makes TensorFlow trace it a second time.
        if self.built and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def fit(self, x=None, y=None, *args, **kwargs):
        if self.built and self.compiled and not self.run_eagerly:
            with self.distribute_strategy.scope():
                _keras.create_state(self, x, y)
        try:
            return super().fit(x, y, *args, **kwargs)
        except tf.errors.InvalidArgumentError as error:
            if self.objective_loss.range_error in str(error):
                raise ValueError(self.objective_loss.range_error) from None
            raise

    def _unless(self, outside, x):
        """The images, of which the rest of the step is made: an assertion alone stops no update."""
        message = self.objective_loss.range_error
        with tf.control_dependencies([tf.debugging.assert_equal(outside, 0.0, message)]):
            return tf.identity(x)
