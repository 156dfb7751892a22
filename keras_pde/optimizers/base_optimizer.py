import keras
from keras import ops


class BaseOptimizer(keras.optimizers.Optimizer):
    """Keras' base class, with averages of weights after which `fit` may be called again.

    On JAX Keras leaves weights and averages with the same buffers, which its next `fit` refuses.
    """

    def finalize_variable_values(self, var_list):
        super().finalize_variable_values(var_list)
        if self.use_ema:
            for variable in var_list:
                variable.assign(ops.copy(variable))
