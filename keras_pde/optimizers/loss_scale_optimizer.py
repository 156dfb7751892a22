import keras


@keras.saving.register_keras_serializable(package="keras_pde")
class LossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Keras' dynamic loss scaling, around optimizers that depend on the loss.

    Keras' own hides the loss from the optimizer inside; this one passes it on, unscaled. Under
    `mixed_float16`, where `compile` would add Keras' own, pass

    >>> model.compile(kp.optimizers.LossScaleOptimizer(kp.optimizers.SALR(0.1)), loss)

    Args:
        inner_optimizer, initial_scale, dynamic_growth_steps, name: as in
            `keras.optimizers.LossScaleOptimizer`.
    """

    def scale_loss(self, loss):
        self.inner_optimizer.scale_loss(loss)
        return super().scale_loss(loss)
