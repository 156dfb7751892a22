import keras

from keras_pde.training import averaging


class Hook:
    """The objective as the JAX trainer's stateless loss; the rest of its step is Keras' own."""

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
            step = self._step(trainable_variables, state, x, y, sample_weight, iteration)
            loss, main = self._objective_loss(x, y, sample_weight, step)
            scaled = self.optimizer.scale_loss(loss)
        metrics = [scope.get_current_value(v) for v in self.metrics_variables]
        # Those of the model come first among the wrapper's; the averages follow, `train_step`'s.
        updates = [*main.updates, *non_trainable_variables[len(main.updates) :]]
        return scaled, (loss, main.outputs, updates, metrics)

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
        for average, variable in self._averages():
            values[id(average)] = averaging.updated(
                values[id(average)], values[id(variable)], self.average, iterations
            )
        non_trainable = [values[id(v)] for v in self.non_trainable_variables]
        return logs, (trainable, non_trainable, optimizer_variables, metrics)
