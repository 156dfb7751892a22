from keras_pde.optimizers.entropy_sgd import EntropySGD
from keras_pde.registry import register


@register(
    "optimizer",
    "hamilton_jacobi",
    learning_rate=0.9,
    inner_learning_rate=0.05,
    inner_steps=3,
    scope=0.1,
    scope_growth=0.01,
    momentum=0.5,
    inner_momentum=0.4,
)
class HamiltonJacobi(EntropySGD):
    """Gradient descent on the Moreau envelope of the loss: Entropy-SGD at temperature 0.

    The solution of the Hamilton-Jacobi equation without viscosity is the envelope (Hopf-Lax)

        u(x, t) = min_y f(y) + |x - y|^2 / (2 t),    t = 1 / scope,

    and its gradient scope (x - y*) with the minimiser y*, the proximal point of x. L steps of SGD

        y <- y - inner_learning_rate (grad f(y) + scope (y - x))

    approach it; then x <- x - learning_rate (x - y). With `learning_rate=1` this is the proximal
    point method. The envelope has the minima of the loss itself, and a curvature of at most scope.

    Source: Chaudhari et al., "Deep relaxation", 2018 (arXiv 1704.04932).

    Args:
        learning_rate: of the outer step, a share of the way to y.
        inner_learning_rate: of the inner steps, in the units of SGD's.
        inner_steps: L, at least 1.
        scope: 1 / t, at least 0.
        scope_growth: at least 0, a cycle.
        momentum: of the outer step, in [0, 1), Nesterov's.
        inner_momentum: of the inner steps, in [0, 1), Nesterov's; starts anew in each cycle.
        **kwargs: of `AnchoredOptimizer`.

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> model.compile(kp.optimizers.HamiltonJacobi(inner_learning_rate=0.1, scope=0.1), loss)
    """

    evaluation_choices = ("anchor",)
    has_noise = False

    def __init__(
        self,
        learning_rate=1.0,
        inner_learning_rate=0.1,
        inner_steps=20,
        scope=1e-2,
        scope_growth=1e-3,
        momentum=0.0,
        inner_momentum=0.0,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            inner_learning_rate,
            inner_steps,
            scope,
            scope_growth,
            average_weight=1.0,
            momentum=momentum,
            inner_momentum=inner_momentum,
            **kwargs,
        )

    def get_config(self):
        config = super().get_config()
        del config["average_weight"], config["temperature"]
        return config
