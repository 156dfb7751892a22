import itertools

import keras
from keras import ops

from keras_pde import _keras
from keras_pde.checks import check_images
from keras_pde.training import averaging


class Hook:
    """The `objective_loss` of a model as the JAX trainer's stateless loss.

    The rest of the step is Keras' own.
    """

    _looks = False  # whether the next batch is looked at before the step

    def compute_loss_and_updates(
        self,
        trainable_variables,
        non_trainable_variables,
        metrics_variables,
        x,
        y,
        sample_weight,
        training=False,
        optimizer_variables=None,
    ):
        if not training:
            return super().compute_loss_and_updates(
                trainable_variables,
                non_trainable_variables,
                metrics_variables,
                x,
                y,
                sample_weight,
                training=False,
            )
        # A nested scope does not see the outer one's values: pass all of them on.
        refs = (
            *self.trainable_variables,
            *self.non_trainable_variables,
            *self.metrics_variables,
            *self.optimizer.variables,
        )
        values = (
            *trainable_variables,
            *non_trainable_variables,
            *metrics_variables,
            *optimizer_variables,
        )
        with keras.StatelessScope(state_mapping=list(zip(refs, values, strict=True))) as scope:
            iteration = self.optimizer.iterations.value
            state = non_trainable_variables[: len(self.model.non_trainable_variables)]
            step = self.objective_loss.step(
                trainable_variables, state, x, y, sample_weight, iteration
            )
            loss, _, main = self.objective_loss(self, step, x, y, sample_weight, self._unless)
            scaled = self.optimizer.scale_loss(loss)
        if main.assigned:
            names = [self.model.trainable_variables[number].path for number in main.assigned]
            raise ValueError(
                f"Received a layer that assigns its trainable weights {names} when it is called, "
                "as SpectralNormalization does; Keras' trainer drops that on JAX. Train on "
                "TensorFlow, or leave the layer out."
            )
        metrics = [scope.get_current_value(v) for v in self.metrics_variables]
        # Those of the model come first among the wrapper's; the averages follow, `train_step`'s.
        updates = [*main.updates, *non_trainable_variables[len(main.updates) :]]
        return scaled, (loss, main.outputs, updates, metrics)

    def fit(self, *args, **kwargs):
        self._looks = True
        return super().fit(*args, **kwargs)

    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            return
        super().make_train_function(force=force)
        run = self.train_function

        def train_function(state, iterator):
            try:
                return run(state, self._looked_at(iterator) if self._looks else iterator)
            except Exception:
                _keras.put_back(self, state)  # the values, which are out of the variables in here
                raise

        self.train_function = train_function

    def _looked_at(self, iterator):
        """The batches, once the first of a training is seen to be in range: before compilation."""
        self._looks = False
        first = list(itertools.islice(iterator, 1))
        perturbed = self.objective_loss.perturbed
        for batch in first if perturbed.at is None else ():
            x = perturbed.chosen(keras.utils.unpack_x_y_sample_weight(batch)[0])
            shards = [s.data for s in x.addressable_shards] if hasattr(x, "sharding") else [x]
            for shard in shards:
                check_images(
                    ops.convert_to_numpy(shard), self.objective_loss.objective.image_range, "x"
                )
        return itertools.chain(first, iterator)

    def _unless(self, outside, x):
        """The images: nothing can stop a compiled step, and the metric tells afterwards."""
        return x

    def train_step(self, state, data):
        logs, state = super().train_step(state, data)
        if not self.averaged:
            return logs, state
        trainable, non_trainable, optimizer_variables, metrics = state
        refs = (*self.trainable_variables, *self.non_trainable_variables)
        values = {id(v): x for v, x in zip(refs, (*trainable, *non_trainable), strict=True)}
        iterations = dict(zip(map(id, self.optimizer.variables), optimizer_variables, strict=True))[
            id(self.optimizer.iterations)
        ]
        for average, variable in averaging.pairs(self.averaged, self.model):
            values[id(average)] = averaging.updated(
                values[id(average)], values[id(variable)], self.average, iterations
            )
        non_trainable = [values[id(v)] for v in self.non_trainable_variables]
        return logs, (trainable, non_trainable, optimizer_variables, metrics)
