from keras_pde.objectives.gradient_penalty import GradientPenalty
from keras_pde.objectives.objective import Preset
from keras_pde.registry import register


@register("objective", "tikhonov", norm="l2", weight=0.1)
class Tikhonov(Preset):
    """Squared input-gradient penalty: E[l + weight / 2 * |grad l|^2].

    `Plain() + GradientPenalty(norm, weight, power=2, method=...)`. Drucker and LeCun (1992) with
    double backpropagation; Finlay and Oberman (2019), arXiv 1905.11468, with finite differences.

    Args:
        norm: `"l1" | "l2" | "linf"`, the norm of the *gradient*.
        weight: factor, not negative.
        method, step_size, fraction, bounds: as in `GradientPenalty`.

    Example:

    >>> model = RobustModel(network, Tikhonov.paper2019("l2", weight=0.1))
    """

    def __init__(
        self,
        norm,
        weight,
        method="double_backprop",
        step_size=0.01,
        fraction=1.0,
        bounds=(0.0, 1.0),
    ):
        penalty = GradientPenalty(norm, weight, 2, method, step_size, fraction, bounds=bounds)
        self.weight, self.norm, self.method = penalty.weight, penalty.norm, penalty.method
        self.step_size, self.fraction, self.bounds = (
            penalty.step_size,
            penalty.fraction,
            penalty.bounds,
        )
        super().__init__(None, [penalty])

    @classmethod
    def paper2019(cls, norm="l2", weight=0.1):
        """Finite differences with h = 0.01, as in the 2019 code; weight 0.1 or 1 there.

        For `norm="l1"` (against L-infinity attacks) that code divides the gradient's length by
        sqrt(N), N the number of pixels, and moves by Euclidean length h. Here the length is the
        plain 1-norm and the step has length h in the dual norm; divide `weight` by N to match.
        """
        return cls(norm, weight, method="finite_difference")
