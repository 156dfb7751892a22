from keras import ops

from keras_pde import geometry, replicas
from keras_pde.checks import check_bounds, check_choice, check_count, check_number, optional
from keras_pde.objectives.objective import AT, STATISTICS, Penalty
from keras_pde.registry import register


@register("objective", "max_gradient_penalty", norm="l2", weight=0.1)
class MaxGradientPenalty(Penalty):
    """Hinge on the largest input gradient of the batch.

    weight * max(max_i |grad l(x_i)| - floor, 0): a sampled Lipschitz constant of the
    loss, as in the hinged regulariser max(Lip - L0, 0) of Oberman and Calder (2018, arXiv
    1808.09540) and J2-Lip of Finlay, Oberman and Abbasi (2018,
    arXiv 1810.00953). It is an estimate from the batch, not a certificate.

    The derivative of a maximum involves the arg-max only, so only `top_k` candidates are
    differentiated (double backpropagation), which costs next to nothing.

    `statistics` says which network's gradients are penalised, if it has BatchNormalization; the two
    penalties have almost orthogonal derivatives.

    * `"batch"`: the training pass's. Candidates are differentiated with its batch statistics,
      through which gradients flow (as if one image did not change them). `top_k=None`
      differentiates the whole batch in training mode, which is the 2018 penalty itself.
    * `"inference"`: the deployed network's, with moving statistics. Training can then lower the
      penalty by shrinking weights, which the next batch's normalisation undoes: the moving
      statistics lag behind, and accuracy suffered whenever we tried it. Right for models without
      BatchNormalization, where both are the same.

    `selection` says by which gradients candidates are chosen. `"crafting"`: those at the clean
    images, which crafting has computed already (without an adversarial data term, in inference
    mode), so it is free; exact for `at="clean"` and the same statistics, otherwise the arg-max may
    be missed (a larger `top_k` guards against that). `"batch"`: those of the training pass, one
    more backward pass.

    Sample weights multiply gradients, as they multiply the losses.

    Args:
        norm: `"l1" | "l2" | "linf"`, the norm of the *gradient* (the dual of the threat model's).
        weight: factor, not negative.
        floor: L0, the slope that costs nothing. Not negative.
        top_k: number of candidates, or `None` for the whole batch.
        scale: `"per_example"`: |grad l(x_i)|; `"batch_mean"`: divided by the (global) batch size,
            the gradient of the mean loss, as the 2018 code has it.
        at: `"clean"` or `"perturbed"` images (the same without an adversarial data term).
        statistics: `"batch"` or `"inference"`.
        selection: `"crafting"` or `"batch"`.
        bounds: as in `GradientPenalty`.

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> tulip = Adversarial("l2", 0.1) + MaxGradientPenalty("l2", 1.0, at="perturbed")
    """

    name = "max_gradient_penalty"

    def __init__(
        self,
        norm,
        weight,
        floor=0.0,
        top_k=1,
        scale="per_example",
        at="clean",
        statistics="batch",
        selection="crafting",
        bounds=(0.0, 1.0),
    ):
        check_choice(scale, "scale", ("per_example", "batch_mean"))
        check_choice(at, "`at`", AT)
        check_choice(statistics, "statistics", STATISTICS)
        check_choice(selection, "selection", ("crafting", "batch"))
        self.weight = check_number(weight, "weight", least=0)
        self.floor = check_number(floor, "floor", least=0)
        self.top_k = optional(check_count, top_k, "top_k")
        self.scale, self.at, self.norm = scale, at, geometry.get(norm).name
        self.statistics, self.selection = statistics, selection
        self.bounds = check_bounds(bounds)

    def needs_main_gradient(self, shared):
        whole_batch = self.top_k is None and self.statistics == "batch" and shared
        return whole_batch or (self.top_k is not None and self.selection == "batch")

    def needs_batch_statistics(self):
        return self.statistics == "batch" and self.top_k is not None

    def value(self, step):
        index, chosen = self._candidates(step)
        there = step.penalised(self.at, self.statistics, index)
        lengths = step.weighted(geometry.get(self.norm).norm(there.gradient), index)
        if chosen is not None:
            lengths = ops.where(chosen, lengths, ops.zeros_like(lengths))
        largest = ops.max(lengths)
        if self.scale == "batch_mean":
            largest = largest / ops.cast(step.batch_size() * replicas.count(), largest.dtype)
        largest = replicas.global_maximum(largest)
        # The floor is paid once: other replicas than the winner hold zero.
        return self.weight * ops.maximum(largest - self.floor * replicas.count(), 0.0)

    def _candidates(self, step):
        """Numbers of this replica's `top_k` candidates, and which of them are so globally."""
        if self.top_k is None:
            return None, None
        source = step.main if self.selection == "batch" else step.clean
        lengths = step.weighted(geometry.get(self.norm).norm(source.gradient))
        lengths = ops.stop_gradient(lengths)
        index = ops.argsort(-lengths)[: self.top_k]
        return index, replicas.among_largest(ops.take(lengths, index), self.top_k)
