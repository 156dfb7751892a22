import keras


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
            step = self._step(
                trainable_variables, non_trainable_variables, x, y, sample_weight, iteration
            )
            loss, main = self._objective_loss(x, y, sample_weight, step)
            scaled = self.optimizer.scale_loss(loss)
        metrics = [scope.get_current_value(v) for v in self.metrics_variables]
        return scaled, (loss, main.outputs, main.updates, metrics)
