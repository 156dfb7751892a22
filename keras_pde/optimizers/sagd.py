from keras import ops

from keras_pde.checks import check_count, check_number
from keras_pde.optimizers.batch_rules import RULES
from keras_pde.optimizers.loss_aware_optimizer import LossAwareOptimizer, squared_norm
from keras_pde.registry import register, unknown_name


@register(
    "optimizer",
    "sagd",
    learning_rate=0.05,
    rule="cabs",
    theta=2.0,
    f_star=-0.1,
    smallest=3,
    largest=5,
    decay=0.5,
)
class SAGD(LossAwareOptimizer):
    """Stochastic adaptive gradient descent: SGD that adapts its batch size to the noise.

    Gradients of m batches of `fit` are averaged into one step, and m follows from their scatter by
    a rule. The shapes of a training step never change, so nothing is compiled again.

    With V the variance of a batch's gradient, h the learning rate:

    - `"salr"`: m = h V / (theta (f - f*) - h |grad f|^2), the batch with which h is Polyak's rate
      (`SALR`), theta = 2;
    - `"norm_test"`: m = V / (theta^2 |grad f|^2), theta = 1 (Byrd, Chin, Nocedal and Wu, 2012);
    - `"cabs"`: m = theta h V / (f - f*), theta = 1 (Balles, Romero and Hennig, 2017);
    - `"noise_scale"`: m = theta V / |grad f|^2, theta = 1 (McCandlish et al., 2018).

    V and |grad f|^2 are unbiased estimates from the m batches; running means of them and of the
    loss over steps, numerators and denominators apart, enter the rule.

    Source: Prazeres and Oberman, "Stochastic gradient descent with Polyak's learning rate", J. Sci.
    Comput. 89:25, 2021 (arXiv 1903.08688).

    From one step to the next m at most doubles. Within a step the weights do not change, and
    `last_rate` is 0; one that is not complete at the end of `fit` goes on in the next.
    Learning-rate schedules count batches of `fit`. Clipping is of each batch's gradient, and biases
    V.

    Args:
        learning_rate: h.
        rule: `"salr"`, `"norm_test"`, `"cabs"` or `"noise_scale"`.
        theta: of the rule, above 0; None for the published one.
        f_star: lowest value of the loss.
        smallest: of m, at least 2, since one batch says nothing about noise.
        largest: of m.
        decay: of the running means, in [0, 1).
        momentum, nesterov, **kwargs: of `LossAwareOptimizer`.

    Attributes:
        batches: m, a scalar variable; None until the optimizer is built.
        steps: how many steps were made, a scalar variable; None until then.

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> model.compile(kp.optimizers.SAGD(0.1, rule="norm_test", largest=32), loss)
    """

    def __init__(
        self,
        learning_rate=0.1,
        rule="salr",
        theta=None,
        f_star=0.0,
        smallest=2,
        largest=64,
        decay=0.9,
        **kwargs,
    ):
        super().__init__(learning_rate, **kwargs)
        if rule not in RULES:
            raise unknown_name("rule", rule, RULES)
        self.rule = rule
        self.theta = RULES[rule][1] if theta is None else check_number(theta, "theta", above=0)
        self.f_star = check_number(f_star, "f_star")
        self.smallest = check_count(smallest, "smallest", least=2)
        self.largest = check_count(largest, "largest", least=self.smallest)
        self.decay = check_number(decay, "decay", least=0, below=1)

    @property
    def remembered(self):
        sums = dict.fromkeys(("steps", "count", "squares", "losses"), 0.0)
        means = dict.fromkeys(("gap", "variance", "slope"), 0.0)
        return {"batches": float(self.smallest), "due": 1.0, **sums, **means}

    @property
    def batches(self):
        return self._scalars.get("batches")

    @property
    def steps(self):
        return self._scalars.get("steps")

    @property
    def logged(self):
        return {"batches": self.batches, "steps": self.steps, "skipped": self.skipped}

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._gradient_sums = self.add_optimizer_variables(variables, "gradient_sum")

    def rate(self, loss, gradients, variables, remembered):
        fresh = remembered["due"] > 0  # the last batch ended a step

        def added(total, value):
            return ops.where(fresh, value, total + value)

        k = added(remembered["count"], 1.0)
        squares = added(remembered["squares"], squared_norm(gradients))
        losses = added(remembered["losses"], loss)
        sums = [self._gradient_sums[self.place(v)] for v in variables]
        pairs = zip(map(ops.convert_to_tensor, sums), gradients, strict=True)
        totals = [added(total, g) for total, g in pairs]
        mean = squared_norm(totals) / k**2  # |G|^2
        # E|g|^2 = s + V, E|G|^2 = s + V / k.
        variance = (squares / k - mean) * k / ops.maximum(k - 1, 1)
        found = {
            "gap": losses / k - self.f_star,
            "variance": variance,
            "slope": ops.maximum(mean - variance / k, 0),
        }
        due = k >= remembered["batches"]
        steps = remembered["steps"] + ops.cast(due, "float32")
        weight = ops.maximum(1 / ops.maximum(steps, 1), 1 - self.decay) * ops.cast(due, "float32")
        means = {
            name: remembered[name] + weight * (new - remembered[name])
            for name, new in found.items()
        }
        h = ops.cast(self.learning_rate, "float32")
        rule, _ = RULES[self.rule]
        wanted = rule(h, means["gap"], means["variance"], means["slope"], self.theta)
        # At most doubled: the first estimates, of few batches, may say anything.
        wanted = ops.minimum(ops.ceil(wanted), 2 * remembered["batches"])
        wanted = ops.clip(wanted, self.smallest, self.largest)
        return ops.where(due, h, 0.0), {
            "batches": ops.where(due, wanted, remembered["batches"]),
            "due": ops.cast(due, "float32"),
            "steps": steps,
            "count": k,
            "squares": squares,
            "losses": losses,
            **means,
        }

    def update_step(self, gradient, variable, learning_rate, active=True, new=False):
        slot = self._gradient_sums[self.place(variable)]
        count = ops.cast(self._scalars["count"], variable.dtype)
        before = ops.convert_to_tensor(slot)
        # A batch that is left out has not been counted: 1 is then the one before.
        total = ops.where(ops.logical_and(active, count == 1), gradient, before + gradient)
        self.assign(slot, total)
        due = ops.logical_and(active, ops.convert_to_tensor(self._scalars["due"]) > 0)
        mean = total / ops.maximum(count, 1)
        super().update_step(mean, variable, learning_rate, due, new)

    def get_config(self):
        names = ("rule", "theta", "f_star", "smallest", "largest", "decay")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
