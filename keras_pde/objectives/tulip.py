from keras_pde.objectives.adversarial import Adversarial
from keras_pde.objectives.max_gradient_penalty import MaxGradientPenalty
from keras_pde.objectives.objective import Preset
from keras_pde.registry import register


@register("objective", "tulip", epsilon=0.1, weight=0.1)
class Tulip(Preset):
    """J2-Lip ("tulip"): adversarial training in L2 plus the largest input gradient of the batch.

    E[l + epsilon |grad l|_2] + weight * max_i |grad l(x_i)|_2, the maximum at the perturbed images:
    `Adversarial("l2", epsilon) + MaxGradientPenalty("l2", weight, at="perturbed")`. In the paper
    the model has a `TanhLogits` head; it works without.

    Source: Finlay, Oberman and Abbasi (2018), "Improved robustness to adversarial examples using
    Lipschitz regularization of the loss", arXiv 1810.00953.

    Args:
        epsilon: length of the L2 perturbation, in the units of the images.
        weight: factor of the maximum, per example (not divided by the batch size).
        floor, top_k, scale, statistics, selection: as in `MaxGradientPenalty`.
        bounds: as in `Adversarial`.
        crafting_statistics: `statistics` of `Adversarial`.

    Example:

    >>> model = RobustModel(network, Tulip(epsilon=0.1, weight=0.05))
    """

    def __init__(
        self,
        epsilon,
        weight,
        floor=0.0,
        top_k=1,
        scale="per_example",
        statistics="batch",
        selection="crafting",
        bounds=(0.0, 1.0),
        crafting_statistics="batch",
    ):
        steepness = MaxGradientPenalty(
            "l2", weight, floor, top_k, scale, "perturbed", statistics, selection, bounds=bounds
        )
        for name in ("weight", "floor", "top_k", "scale", "statistics", "selection"):
            setattr(self, name, getattr(steepness, name))
        data = Adversarial("l2", epsilon, bounds=bounds, statistics=crafting_statistics)
        self.epsilon, self.bounds = data.epsilon, data.bounds
        self.crafting_statistics = data.statistics
        super().__init__(data, [steepness])

    @classmethod
    def paper2018(cls):
        """The published setting, with the conventions of its code.

        epsilon 0.01 without clipping, crafted in inference mode; weight 0.1 on the gradient of the
        batch-*mean* loss (so 0.1 divided by the batch size per example), through training-mode
        BatchNormalization and over the whole batch.
        """
        kept = {"scale": "batch_mean", "bounds": None, "crafting_statistics": "inference"}
        return cls(0.01, 0.1, top_k=None, **kept)
