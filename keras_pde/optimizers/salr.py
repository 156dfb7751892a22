import numbers

from keras import ops

from keras_pde.checks import check_count, check_number
from keras_pde.optimizers.loss_aware_optimizer import LossAwareOptimizer, squared_norm
from keras_pde.registry import register, unknown_name

RULES = ("running_min", "target")


@register(
    "optimizer",
    "salr",
    learning_rate=0.2,
    f_star="running_min",
    factor=1.5,
    loss_decay=0.5,
    square_decay=0.7,
    margin=0.8,
    patience=2,
    window=2,
    smallest=1e-3,
    momentum=0.5,
    use_ema=False,
)
class SALR(LossAwareOptimizer):
    """Stochastic adaptive learning rate: SGD that needs no schedule.

        rate = 2 (f - f*) / E|g|^2,

    with running means of the loss and of |g|^2. E|g|^2 holds the variance of the gradient, which
    remains when f - f* goes to 0: so the rate decays like 1 / k by itself, and for strongly convex
    losses q = |w - w*|^2 / 2 does so, too, with the constant of the theorem:

        1 / q_k >= 1 / q_0 + k mu / (sigma^2 / (2 mu) + (L - mu) q_0).

    Source: Prazeres and Oberman, "Stochastic gradient descent with Polyak's learning rate", J.
    Sci. Comput. 89:25, 2021 (arXiv 1903.08688). Deviations: the rate follows every step, where the
    authors change theirs every 7,500 (`paper_windowed`); momentum is an average of gradients.

    The theorem is about the true f - f* and E|g|^2. Running means of what batches say leave noise
    in f - f*, below which the rate does not fall with a number as f_star: for networks take
    `"target"`, whose gap halves where the loss stalls. What the rate leaves of the gradients' noise
    in the weights, Keras' moving average takes out: it is in the model at the end of `fit`, and
    with `keras_pde.callbacks.EvaluationWeights` in validation and checkpoints, too.

    Args:
        learning_rate: the largest rate.
        f_star: the lowest loss to be expected: `"target"`, a level below the lowest running mean by
            a gap that halves each time it was not reached within `patience` steps; `"running_min"`,
            `margin` times the lowest running mean (where that is negative, as far below it); or a
            number.
        factor: 2 as in the theorem; 1 also converges.
        loss_decay: of the running mean of the loss, in [0, 1): 0 takes the batch's.
        square_decay: of the running mean of |g|^2, in [0, 1).
        margin: of `"running_min"`, in [0, 1].
        patience: of `"target"`, in steps, at least 1: a few epochs; without `use_ema` about one. In
            a training of little more steps the rate may stay at the largest.
        window: steps between changes of the rate, at least 1; above 1, |g|^2 is averaged plainly
            since the last change.
        smallest: of the rate, at least 0.
        use_ema: whether to average the weights, with Keras' `ema_momentum`.
        momentum, nesterov, **kwargs: of `LossAwareOptimizer`.

    While the running mean is below f_star the rate is `smallest`: choose a lower f_star.

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> model.compile(kp.optimizers.SALR(), loss)
    """

    def __init__(
        self,
        learning_rate=0.5,
        f_star="target",
        factor=2.0,
        loss_decay=0.9,
        square_decay=0.99,
        margin=0.9,
        patience=1000,
        window=1,
        smallest=0.0,
        momentum=0.9,
        use_ema=True,
        **kwargs,
    ):
        super().__init__(learning_rate, momentum, use_ema=use_ema, **kwargs)
        if isinstance(f_star, numbers.Real):
            f_star = check_number(f_star, "f_star")
        elif f_star not in RULES:
            raise unknown_name("f_star", f_star, ["a number", *RULES])
        self.f_star = f_star
        self.factor = check_number(factor, "factor", above=0)
        self.loss_decay = check_number(loss_decay, "loss_decay", least=0, below=1)
        self.square_decay = check_number(square_decay, "square_decay", least=0, below=1)
        self.margin = check_number(margin, "margin", least=0, most=1)
        self.patience = check_count(patience, "patience")
        self.window = check_count(window, "window")
        self.smallest = check_number(smallest, "smallest", least=0)

    @classmethod
    def paper_windowed(cls, f_star=0.2, window=7500, **kwargs):
        """What the authors run on CIFAR-10: a rate in [1e-5, 0.1], another every 7,500 steps."""
        arguments = {"loss_decay": 0.9, "smallest": 1e-5, "momentum": 0.0, "use_ema": False}
        return cls(0.1, f_star, window=window, **{**arguments, **kwargs})

    @property
    def remembered(self):
        names = ["seen", "loss", "square"]
        names += ["kept"] if self.window > 1 else []
        names += {"running_min": ["best"], "target": ["best", "gap", "level", "stalled"]}.get(
            self.f_star, []
        )
        return dict.fromkeys(names, 0.0)

    def rate(self, loss, gradients, variables, remembered):
        n = remembered["seen"] + 1
        within = ops.mod(n - 1, self.window) + 1
        weights = (within, 1.0) if self.window > 1 else (n, self.square_decay)
        f = _mean(remembered["loss"], loss, n, self.loss_decay)
        square = _mean(remembered["square"], squared_norm(gradients), *weights)
        lowest, changed = self._lowest(f, ops.equal(n, 1), remembered)
        rate = self.factor * (f - lowest) / ops.maximum(square, 1e-30)
        rate = ops.maximum(rate, self.smallest)
        if self.window > 1:
            # What it begins with is above any cap.
            kept = ops.where(ops.equal(n, 1), 1e30, remembered["kept"])
            rate = changed["kept"] = ops.where(ops.equal(within, self.window), rate, kept)
        return rate, {"seen": n, "loss": f, "square": square, **changed}

    def _lowest(self, f, first, remembered):
        """f*, as the rule says, and what of `remembered` has changed."""
        if self.f_star not in RULES:
            return self.f_star, {}
        best = ops.where(first, f, ops.minimum(remembered["best"], f))
        if self.f_star == "running_min":
            return best - (1 - self.margin) * ops.abs(best), {"best": best}
        # The level is best - gap, as of the last change; at first half of the first loss.
        level = ops.where(first, f / 2, remembered["level"])
        reached = f <= level
        stalled = ops.where(ops.logical_or(first, reached), 0.0, remembered["stalled"] + 1)
        late = stalled >= self.patience
        gap = ops.where(late, remembered["gap"] / 2, remembered["gap"])
        gap = ops.where(first, ops.abs(f) / 2, gap)
        level = ops.where(ops.logical_or(reached, late), best - gap, level)
        stalled = ops.where(late, 0.0, stalled)
        return level, {"best": best, "gap": gap, "level": level, "stalled": stalled}

    def get_config(self):
        names = ("f_star", "factor", "loss_decay", "square_decay", "margin", "patience", "window")
        own = {name: getattr(self, name) for name in (*names, "smallest")}
        return {**super().get_config(), **own}


def _mean(mean, value, n, decay):
    """Running mean after the n-th value: plain at first, so that the start does not count."""
    return mean + ops.maximum(1 / n, 1 - decay) * (value - mean)
