from keras import ops

from keras_pde import _keras, replicas
from keras_pde.checks import check_count
from keras_pde.optimizers.cyclic_optimizer import chosen
from keras_pde.optimizers.wrapper_optimizer import WrapperOptimizer
from keras_pde.registry import register


@register("optimizer", "stochastic_weight_averaging", inner_optimizer="adam", start=2, period=3)
class StochasticWeightAveraging(WrapperOptimizer):
    """Stochastic weight averaging: the mean of the weights that any optimizer passes.

    From step `start` on, the weights after every `period` steps enter a plain mean, which does not
    act upon the training. `fit` ends with the mean in the model, from which another `fit` goes on;
    weights that were set in between take the place of those in the mean.
    Batch normalization has never seen it: pass `keras_pde.callbacks.RecalibrateBatchNorm`.

    Source: Izmailov, Podoprikhin, Garipov, Vetrov and Wilson, "Averaging weights leads to wider
    optima and better generalization", UAI 2018 (arXiv 1803.05407), algorithm 1.

    Args:
        inner_optimizer: the optimizer that trains, its name, or its config: with a constant or
            cyclical learning rate.
        start: number of batches before the averaging, at least 0: the last quarter of a training
            is usual.
        period: batches between two weights that count, at least 1; an epoch is usual.
        name: of the optimizer.

    Raises:
        ValueError: an argument is out of range, or the inner optimizer cannot be wrapped.

    Example:

    >>> sgd = keras.optimizers.SGD(0.05, momentum=0.9)
    >>> swa = kp.optimizers.StochasticWeightAveraging(sgd, start=30 * batches, period=batches)
    >>> model.compile(swa, loss)
    """

    evaluation_choices = ("mean",)

    def __init__(self, inner_optimizer="sgd", start=0, period=1, name=None):
        super().__init__(inner_optimizer, period, "mean", name)
        if self.inner_optimizer.use_ema:
            raise ValueError(
                f"Received inner_optimizer={type(self.inner_optimizer).__name__} with "
                "use_ema=True, so two averages of the weights; expected use_ema=False."
            )
        self.start, self.period = check_count(start, "start", least=0), self.inner_steps

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._means = self.add_optimizer_variables(variables, "mean")

    @property
    def averaged(self):
        """How many weights are in the mean: an integer tensor."""
        return ops.maximum(
            ops.floor_divide(ops.convert_to_tensor(self.iterations) - self.start, self.period), 0
        )

    def step(self, gradients, variables):
        new = ops.equal(self._passed(), 0)

        def begin(variable):
            slot = self._means[self.place(variable)]
            y, mean = ops.convert_to_tensor(variable), ops.convert_to_tensor(slot)
            self.assign(slot, ops.where(new, y, mean))

        replicas.update(self, begin, variables)
        self.inner_optimizer.apply(gradients, variables)
        passed = ops.convert_to_tensor(self.iterations) + 1 - self.start
        counts = ops.logical_and(passed > 0, ops.equal(ops.mod(passed, self.period), 0))

        def average(variable):
            slot = self._means[self.place(variable)]
            y, mean = ops.convert_to_tensor(variable), ops.convert_to_tensor(slot)
            share = ops.cast(self.period / passed, y.dtype)  # 1 / n
            self.assign(slot, ops.where(counts, mean + share * (y - mean), mean))

        replicas.update(self, average, variables)

    @property
    def comes_back_after(self):
        return 0

    @property
    def evaluated_slots(self):
        return [self._means]

    def evaluation_values(self):
        return chosen(self.averaged > 0, self._means, self.trained)

    def end_cycle(self):
        """Nothing: between two weights that count, the model's are those of the training."""

    def finalize_variable_values(self, var_list):
        if _keras.holds_values(self):
            WrapperOptimizer.end_cycle(self)
            self.inner_optimizer.finalize_variable_values(var_list)

    def get_config(self):
        return {**super().get_config(), "start": self.start, "period": self.period}
