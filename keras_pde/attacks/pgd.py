from keras import ops

from keras_pde import geometry
from keras_pde.attacks import losses
from keras_pde.attacks.ascent import ascent_step, to_bounds, where_rows
from keras_pde.attacks.iterated import IteratedAttack
from keras_pde.checks import check_count, check_flag, check_number, check_seed, optional
from keras_pde.registry import register


@register("attack", "pgd", norm="linf", epsilon=0.1, steps=10)
class PGD(IteratedAttack):
    """Projected gradient descent: steepest ascent of a loss in a ball, from random starts.

    x <- P(x + step_size * steepest(grad f(x))), `steps` times (Kurakin et al., 2016; Madry et al.,
    2018, arXiv 1706.06083). The image kept is the last misclassified one on the way. Robust
    accuracy under it is an upper bound of the true one.

    Args:
        norm: `"l1" | "l2" | "linf"`, norm of the perturbation.
        epsilon: its largest length, in the units of the images: a number, at least 0, or text such
            as `"8/255"`; `None` for an attack that gets it later, `attack.at(epsilon)`.
        steps: iterations, at least 1.
        step_size: length of a step in `norm`; default `2.5 * epsilon / steps`.
        restarts: number of runs, each on the images not yet fooled.
        random_start: whether runs start at a random point of the ball (needed for restarts).
        loss: `"ce"` (cross-entropy), `"dlr"` or `"margin"`; the last two see through logits that
            are merely large or bounded.
        bounds: range of valid images, as in `keras_pde.Threat`.
        seed: integer; noise is a function of (seed, restart, example).

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> result = PGD("linf", epsilon=8 / 255, steps=40, restarts=2)(model, x_test, y_test)
    >>> result.robust_accuracy
    """

    in_state = ("epsilon", "steps", "step_size", "restarts", "random_start", "seed")

    def __init__(
        self,
        norm,
        epsilon=None,
        steps=20,
        step_size=None,
        restarts=1,
        random_start=True,
        loss="ce",
        bounds=(0.0, 1.0),
        seed=0,
    ):
        super().__init__(norm, epsilon, bounds)
        losses.get(loss)
        self.steps = check_count(steps, "steps")
        self.restarts = check_count(restarts, "restarts")
        if restarts > 1 and not random_start:
            raise ValueError(
                f"Received restarts={restarts} with random_start=False; all runs would be equal. "
                "Use random_start=True or restarts=1."
            )
        self.loss = loss
        self.random_start = check_flag(random_start, "random_start")
        self.step_size = optional(check_number, step_size, "step_size", above=0)
        self.seed = check_seed(seed)

    @property
    def label(self):
        return f"PGD-{self.steps}-{self.loss}"

    def start(self, x, keys):
        images = x
        if self.random_start:
            delta = geometry.get(self.norm).random(keys, ops.shape(x)[1:], self.epsilon)
            images = to_bounds(x + ops.cast(delta, x.dtype), self.bounds)
        size = self.step_size
        if size is None:
            size = self.epsilon * (1.0 if self.steps == 1 else 2.5 / self.steps)
        one = ops.ones((x.shape[0],), dtype=x.dtype)
        return {
            "images": images,
            "epsilon": self.epsilon * one,
            "step_size": size * one,
            "left": ops.cast(self.steps * one, "int32"),
        }

    def advance(self, state, evaluated, x):
        images = ascent_step(
            state["images"],
            evaluated.gradient,
            x,
            geometry.get(self.norm),
            state["epsilon"],
            state["step_size"],
            self.bounds,
        )
        left = state["left"] - 1
        return {
            "images": images,
            "best": where_rows(evaluated.fooled, state["images"], state["best"]),
            "fooled": state["fooled"] | evaluated.fooled,
            "left": left,
            "done": left <= 0,
        }
