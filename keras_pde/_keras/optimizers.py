"""Of optimizers."""

import keras


def trained_by(optimizer) -> list:
    """The variables that an optimizer was built for, in the order of its slots."""
    return optimizer._trainable_variables


def place(optimizer, variable) -> int:
    """The number of a variable among them."""
    return optimizer._get_variable_index(variable)


def check_known(optimizer, variables):
    """Refuses variables that the optimizer was not built for."""
    optimizer._check_variables_are_known(variables)


def batches_of(optimizer):
    """The variable that counts the batches."""
    return optimizer._iterations


def own_variables(optimizer) -> list:
    """An optimizer's variables, without those of one inside."""
    return optimizer._variables


def holds_values(optimizer) -> bool:
    """Whether it is built; on JAX an error within `fit` leaves variables without values."""
    return optimizer.built and optimizer._iterations._value is not None


def moving_averages(optimizer) -> list:
    """The slots of `use_ema`, with `None` for a variable that is overwritten with gradients."""
    return optimizer._model_variables_moving_average


def decays(optimizer, variable) -> bool:
    """Whether `weight_decay` is about this variable."""
    if not optimizer.built and hasattr(optimizer, "_is_excluded_from_weight_decay"):  # Keras 3.16
        return not optimizer._is_excluded_from_weight_decay(variable)
    return optimizer._use_weight_decay(variable)


def leave_undecayed(optimizer, variables):
    """Excludes these variables from weight decay, of an optimizer that may be built already."""
    keys = {optimizer._var_key(v) for v in variables}
    optimizer._exclude_from_weight_decay = keys
    optimizer._exclude_from_weight_decay_cache = {}
    if hasattr(optimizer, "_weight_decay_by_var_key"):  # Keras 3.16, once it is built
        optimizer._weight_decay_by_var_key.update(dict.fromkeys(keys, False))


def summed_over_replicas(optimizer, pairs) -> list:
    """(gradient, variable) with gradients summed, on TensorFlow."""
    return optimizer._all_reduce_sum_gradients(pairs)


def strategy_of(optimizer):
    """The `tf.distribute` strategy that it was made under."""
    return optimizer._distribution_strategy


# Lists with one entry a variable, and what the entries are made of.
SLOT_KINDS = {
    "momentums": "gradients",
    "_momentums": "gradients",
    "_accumulated_gradients": "gradients",
    "_m": "gradients",
    "_velocities": "squares",
    "_velocity_hats": "squares",
    "_accumulators": "squares",
    "_model_variables_moving_average": "weights",
}
_NO_SLOTS = ("_variables", "_trainable_variables")


def slots_of(optimizer) -> dict[str, list]:
    """Attribute -> list of variables, one a trained variable."""
    count = len(optimizer._trainable_variables)
    return {
        name: entries
        for name, entries in vars(optimizer).items()
        if name not in _NO_SLOTS
        and isinstance(entries, list)
        and len(entries) == count
        and all(isinstance(entry, keras.Variable) for entry in entries)
    }


class Optimizer(keras.optimizers.Optimizer):
    """Keras' base class with names for what its subclasses use and take over."""

    @property
    def trained(self) -> list:
        return trained_by(self)

    def place(self, variable) -> int:
        return place(self, variable)

    def decays(self, variable) -> bool:
        return decays(self, variable)

    def with_gradients(self, gradients, variables):
        """Leaves out the variables whose gradient is `None`."""
        return super()._filter_empty_gradients(gradients, variables)

    def clip_all(self, gradients):
        """Clips each replica's gradients, before they are summed."""
        return super()._clip_gradients(gradients)

    def update_averages(self, variables):
        """Updates the moving averages of `use_ema`, after the step."""
        super()._update_model_variables_moving_average(variables)

    def without_overwritten(self, gradients, variables):
        """Assigns gradients that take the variable's place (float8), and leaves those out."""
        return self._overwrite_variables_directly_with_gradients(gradients, variables)

    def decay_weights(self, variables):
        """Shrinks what `weight_decay` is about, before the step."""
        super()._apply_weight_decay(variables)

    def update_all(self, gradients, variables, learning_rate):
        """The step: `update_step` for each variable, where assignments are allowed."""
        super()._backend_update_step(gradients, variables, learning_rate)

    def _apply_weight_decay(self, variables):
        self.decay_weights(variables)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        self.update_all(grads, trainable_variables, learning_rate)

    def _filter_empty_gradients(self, grads, vars):
        return self.with_gradients(grads, vars)

    def _clip_gradients(self, grads):
        return self.clip_all(grads)

    def _update_model_variables_moving_average(self, trainable_variables):
        self.update_averages(trainable_variables)
