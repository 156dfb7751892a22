from keras_pde.checks import check_number
from keras_pde.optimizers.anchored_optimizer import AnchoredOptimizer
from keras_pde.registry import register


@register(
    "optimizer",
    "fixed_point_hj",
    learning_rate=0.05,
    inner_steps=3,
    scope=20.0,
    average_weight=0.5,
)
class FixedPointHJ(AnchoredOptimizer):
    """Gradient descent on the Moreau envelope of the loss, whose gradient a fixed point defines.

    Without viscosity the gradient p = grad u(x, t) of the Hamilton-Jacobi equation's solution,
    t = 1 / scope, is constant along its characteristic, so p = grad f(x - t p). L iterations,

        p <- (1 - average_weight) p + average_weight grad f(x - t p),    at first p = grad f(x),

    each on another batch, then x <- x - learning_rate p. On a quadratic of curvature c they
    converge if average_weight (1 + t c) < 2.

    Source: Chaudhari et al., "Deep relaxation", 2018 (arXiv 1704.04932), and the authors' code.

    Args:
        learning_rate: of the outer step, in the units of SGD's.
        inner_steps: L, at least 1.
        scope: 1 / t, above 0.
        average_weight: in (0, 1].
        **kwargs: of `AnchoredOptimizer`; `weight_decay` is part of the outer step.

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> model.compile(kp.optimizers.FixedPointHJ(0.1, inner_steps=5, scope=10.0), loss)
    """

    def __init__(self, learning_rate=0.1, inner_steps=5, scope=10.0, average_weight=0.25, **kwargs):
        super().__init__(learning_rate, inner_steps, **kwargs)
        self.scope = check_number(scope, "scope", above=0)
        self.average_weight = check_number(average_weight, "average_weight", above=0, most=1)

    @property
    def slots(self):
        return ("slope",)

    def begin(self, x, gradient):
        return {"slope": gradient}

    def inner_step(self, step):
        p = step.slots["slope"]
        p = p + self.average_weight * (step.gradient - p)
        return step.x - p / self.scope, {"slope": p}

    def outer_step(self, x, slots, learning_rate):
        return x - learning_rate * slots["slope"], {}

    def get_config(self):
        own = {"scope": self.scope, "average_weight": self.average_weight}
        return {**super().get_config(), **own}
