from keras import ops

from keras_pde import replicas
from keras_pde.checks import check_number
from keras_pde.optimizers.wrapper_optimizer import WrapperOptimizer
from keras_pde.registry import register


@register("optimizer", "lookahead", inner_optimizer="adam", sync_period=3, slow_step_size=0.6)
class Lookahead(WrapperOptimizer):
    """Lookahead: k fast steps of any optimizer, then slow weights go a part of the way.

        x <- x + slow_step_size (y - x),    y <- x

    after every k steps of y. This is Entropy-SGD without force, noise and mean, and with any
    optimizer inside.

    Source: Zhang, Lucas, Hinton and Ba, "Lookahead optimizer: k steps forward, 1 step back",
    NeurIPS 2019 (arXiv 1907.08610). The inner optimizer's slots are kept at the synchronisation.

    Args:
        inner_optimizer: the fast optimizer, its name, or its config.
        sync_period: k, at least 1.
        slow_step_size: in (0, 1].
        name: of the optimizer.

    Raises:
        ValueError: an argument is out of range, or the inner optimizer cannot be wrapped.

    Example:

    >>> model.compile(kp.optimizers.Lookahead(keras.optimizers.Adam(1e-3)), loss)
    """

    def __init__(self, inner_optimizer="sgd", sync_period=5, slow_step_size=0.5, name=None):
        super().__init__(inner_optimizer, sync_period, name=name)
        self.sync_period = self.inner_steps
        self.slow_step_size = check_number(slow_step_size, "slow_step_size", above=0, most=1)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._anchors = self.add_optimizer_variables(variables, "anchor")

    def step(self, gradients, variables):
        phase = self.phase
        first, last = ops.equal(phase, 0), ops.equal(phase, self.inner_steps - 1)

        def before(variable):
            y, anchor, x = self._read(variable)
            self.assign(anchor, ops.where(first, y, x))

        def after(variable):
            y, anchor, x = self._read(variable)
            slow = x + self.slow_step_size * (y - x)
            self.assign(variable, ops.where(last, slow, y))
            self.assign(anchor, ops.where(last, slow, x))

        replicas.update(self, before, variables)
        self.inner_optimizer.apply(gradients, variables)
        replicas.update(self, after, variables)
        for variable in variables:
            if variable.constraint is not None:
                variable.assign(variable.constraint(variable))

    def _read(self, variable):
        """The weights, their anchor's variable, and its value."""
        anchor = self._anchors[self.place(variable)]
        return ops.convert_to_tensor(variable), anchor, ops.convert_to_tensor(anchor)

    def get_config(self):
        own = {"sync_period": self.sync_period, "slow_step_size": self.slow_step_size}
        return {**super().get_config(), **own}
