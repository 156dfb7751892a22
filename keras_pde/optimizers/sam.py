from keras import ops

from keras_pde import replicas
from keras_pde.checks import check_number
from keras_pde.optimizers.loss_aware_optimizer import squared_norm
from keras_pde.optimizers.wrapper_optimizer import WrapperOptimizer
from keras_pde.registry import register


@register("optimizer", "sam", inner_optimizer="adam", rho=0.1)
class SAM(WrapperOptimizer):
    """Sharpness-aware minimisation: the gradient is taken where the loss nearby is highest.

    Two batches make a step. The first only climbs, the second only descends, from where the first
    began:

        y = x + rho g(x) / |g(x)|,    x <- inner step with g(y).

    |g| is the norm over all weights. This is the sup-convolution sibling of the Moreau envelope:
    min over x of max over |e| <= rho of f(x + e), to first order. Half of the batches are spent on
    climbing, so twice the epochs make as many steps as without, and a learning-rate schedule, which
    counts steps of the inner optimizer, should end after half of the batches. After a first batch
    the model holds the climbed weights.

    Source: Foret, Kleiner, Mobahi and Neyshabur, "Sharpness-aware minimization for efficiently
    improving generalization", ICLR 2021 (arXiv 2010.01412). Deviation: the two gradients are of two
    batches, as in optax's transparent mode, so that it works in plain `fit`.

    Args:
        inner_optimizer: the optimizer that descends, its name, or its config.
        rho: radius, above 0, in the units of the weights.
        name: of the optimizer.

    Raises:
        ValueError: an argument is out of range, or the inner optimizer cannot be wrapped.

    Example:

    >>> model.compile(kp.optimizers.SAM(keras.optimizers.SGD(0.1, 0.9), rho=0.05), loss)
    """

    batches_a_step = 2

    def __init__(self, inner_optimizer="sgd", rho=0.05, name=None):
        super().__init__(inner_optimizer, inner_steps=2, name=name)
        self.rho = check_number(rho, "rho", above=0)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._anchors = self.add_optimizer_variables(variables, "anchor")

    def scale(self, weights):
        """What the climb measures distances with, entry by entry."""
        return 1.0

    def step(self, gradients, variables):
        climbing = ops.equal(self.phase, 0)
        total = replicas.summed_gradients(self, gradients, variables)
        # rho T^2 g / |T g|
        scales = [self.scale(ops.convert_to_tensor(v)) for v in variables]
        scaled = [
            T * ops.cast(g, v.dtype) for T, g, v in zip(scales, total, variables, strict=True)
        ]
        length = self.rho / ops.maximum(ops.sqrt(squared_norm(scaled)), 1e-12)
        climbs = [ops.cast(length, g.dtype) * T * g for T, g in zip(scales, scaled, strict=True)]

        def back(variable):
            anchor = self._anchors[self.place(variable)]
            y, x = ops.convert_to_tensor(variable), ops.convert_to_tensor(anchor)
            x = ops.where(climbing, y, x)
            self.assign(anchor, x)
            self.assign(variable, x)

        def undo(variable, old):
            self.assign(variable, ops.where(climbing, old, ops.convert_to_tensor(variable)))

        def climb(variable, direction):
            self.assign_add(variable, ops.where(climbing, direction, ops.zeros_like(direction)))

        replicas.update(self, back, variables)
        kept = [*variables, *self.inner_optimizer.variables]
        before = [ops.copy(ops.convert_to_tensor(v)) for v in kept]
        self.inner_optimizer.apply(gradients, variables)
        replicas.update(self, undo, kept, before)
        replicas.update(self, climb, variables, climbs)

    def get_config(self):
        return {**super().get_config(), "rho": self.rho}
