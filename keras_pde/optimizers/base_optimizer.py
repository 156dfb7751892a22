import keras
from keras import ops


class BaseOptimizer(keras.optimizers.Optimizer):
    """Keras' base class, with moving averages that are right in all of these cases.

    Keras ends `fit` with averages of zeros where no step was made; with those of other variables
    after some were frozen; and, on JAX, with weights in the averages' buffers, which the next `fit`
    refuses.
    """

    def finalize_variable_values(self, var_list):
        end_with_averages(self)


def end_with_averages(optimizer):
    """Puts the moving averages of `use_ema`, if there are any, into the model."""
    for variable, average in averages(optimizer):
        variable.assign(ops.copy(average))


def averages(optimizer):
    """Pairs of variables and their moving averages; none without `use_ema` or before a step."""
    averaging = optimizer.use_ema and optimizer.built
    if not averaging or not int(ops.convert_to_numpy(optimizer.iterations)):
        return []
    pairs = zip(
        optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True
    )
    # Keras has none of variables that it overwrites with gradients (float8).
    return [(variable, average) for variable, average in pairs if average is not None]
