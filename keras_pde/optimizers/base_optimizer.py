import keras
from keras import ops

from keras_pde.optimizers import replicas


class BaseOptimizer(keras.optimizers.Optimizer):
    """Keras' base class, made right in what Keras leaves to chance.

    - Moving averages (`use_ema`) begin anew with each `fit`, which begins with the average in the
      model: so weights that were set in between are respected. Keras ends `fit` with averages of
      zeros where no step was made, and with those of other variables after some were frozen.
    - Clipping is of the gradient of the whole batch. Keras clips each replica's share.
    - What ends `fit` satisfies the constraints of the variables.

    Subclasses update the averages within their steps, and take gradients from `whole_gradients`.
    """

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._origin = self.add_variable((), dtype=self._iterations.dtype, name="origin")

    def _passed(self):
        """Batches since this `fit` began."""
        return ops.convert_to_tensor(self.iterations) - ops.convert_to_tensor(self._origin)

    def begin_fit(self):
        """What follows is another `fit`, from what the model holds."""
        count = int(ops.convert_to_numpy(self.iterations))  # JAX takes no buffer twice
        self._origin.assign(count)

    @property
    def evaluated_slots(self):
        """The lists of slots that the model may hold at the end of `fit`."""
        return [self._model_variables_moving_average] if self.use_ema else []

    def _filter_empty_gradients(self, grads, vars):
        """What has no gradient stays, and so does what is evaluated in its place."""
        grads, vars = super()._filter_empty_gradients(grads, vars)
        moving = {self._get_variable_index(variable) for variable in vars}
        staying = [v for i, v in enumerate(self._trainable_variables) if i not in moving]

        def stay(variable):
            for slots in self.evaluated_slots:
                slot = slots[self._get_variable_index(variable)]
                if slot is not None:
                    self.assign(slot, ops.copy(ops.convert_to_tensor(variable)))

        if staying:
            replicas.update(self, stay, staying)
        return grads, vars

    def _clip_gradients(self, grads):
        """Is part of `whole_gradients`."""
        return grads

    def whole_gradients(self, gradients, variables):
        """The gradients of the whole batch: dense, summed over the replicas, and clipped."""
        return super()._clip_gradients(replicas.summed_gradients(self, gradients, variables))

    def _update_model_variables_moving_average(self, trainable_variables):
        """Is part of the step."""

    def finalize_variable_values(self, var_list):
        if holds_values(self):
            end_with_averages(self)
            self.begin_fit()


def holds_values(optimizer):
    """Whether it is built; on JAX an error within `fit` leaves variables without values."""
    return optimizer.built and optimizer._iterations._value is not None


def end_with_averages(optimizer):
    """Puts the moving averages of `use_ema`, if there are any, into the model."""
    for variable, average in averages(optimizer):
        put(variable, ops.copy(average))


def averages(optimizer):
    """Pairs of variables and their moving averages; none without `use_ema` or before a step."""
    if not (optimizer.use_ema and holds_values(optimizer)):
        return []
    passed = optimizer._passed() if isinstance(optimizer, BaseOptimizer) else optimizer.iterations
    if not int(ops.convert_to_numpy(passed)):
        return []
    pairs = zip(
        optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True
    )
    # Keras has none of variables that it overwrites with gradients (float8).
    return [(variable, average) for variable, average in pairs if average is not None]


def put(variable, value):
    """Assigns the value, or what the variable's constraint makes of it."""
    constraint = variable.constraint
    variable.assign(constraint(ops.convert_to_tensor(value)) if constraint else value)
