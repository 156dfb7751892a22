from keras import ops

from keras_pde import geometry
from keras_pde.attacks.ascent import ascend, movable, to_bounds
from keras_pde.checks import check_choice, check_count, check_flag, check_number, optional
from keras_pde.objectives.objective import STATISTICS, DataTerm
from keras_pde.registry import register
from keras_pde.threat import Threat

_NOISE = 0  # purpose of this term's noise within a step


@register("objective", "adversarial", norm="l2", epsilon=0.1)
class Adversarial(DataTerm):
    """The compiled loss at perturbed images: adversarial training.

    With one step the images are x + epsilon * steepest(grad l), and to first order the objective
    is E[l + epsilon |grad l|_dual]: J1 (FGSM) for `norm="linf"`, J2 for `norm="l2"`, the one-pixel
    variant for `norm="l1"`. More steps are PGD training,
    min E[ max { l(x + d) : |d| <= epsilon } ].

    Sources: Goodfellow, Shlens and Szegedy (2015), arXiv 1412.6572; Madry et al. (2018), arXiv
    1706.06083; Finlay, Oberman and Abbasi (2018), arXiv 1810.00953.

    Weights are constants while the images are crafted. In a model with BatchNormalization the
    moving statistics lag behind the weights, by much in the first 5 / (1 - momentum) steps: what is
    robust to images that were crafted with them need not be the network that trains. So the first
    gradient is taken in training mode, and the batch statistics that it sees are those of the
    further steps. Models without it craft in inference mode.

    Args:
        norm: `"l1" | "l2" | "linf"`, the norm of the *perturbation* (the threat model).
        epsilon: its largest length, in the units of the images: a number, at least 0, or text such
            as `"8/255"`.
        steps: gradient steps, at least 1.
        step_size: length of one step in `norm`; default `epsilon` for one step,
            `2.5 * epsilon / steps` for more.
        random_start: whether the ascent starts at a random point of the ball.
        epsilon_norm: norm in which `epsilon` is the length of the perturbation, if it is not
            `norm`, for a single step: with `norm="linf", epsilon_norm="l2"` the direction is
            sign(grad l), scaled to Euclidean length `epsilon` (the 2018 recipe).
        bounds: range to which the images are clipped, as in `keras_pde.Threat`.
        statistics: of BatchNormalization while crafting: `"batch"`, as above, or `"inference"`, the
            moving ones.

    Raises:
        ValueError: an argument is out of range, or `epsilon_norm` is combined with several steps
            or a random start.

    Example:

    >>> j2 = Adversarial("l2", epsilon=0.1)
    >>> pgd = Adversarial("linf", epsilon=8 / 255, steps=7, random_start=True)
    """

    name = "adversarial"

    def __init__(
        self,
        norm,
        epsilon,
        steps=1,
        step_size=None,
        random_start=False,
        epsilon_norm=None,
        bounds=(0.0, 1.0),
        statistics="batch",
    ):
        norm = geometry.get(norm).name
        steps = check_count(steps, "steps")
        step_size = optional(check_number, step_size, "step_size", above=0)
        random_start = check_flag(random_start, "random_start")
        if epsilon_norm is not None:
            epsilon_norm = geometry.get(epsilon_norm).name
            if steps > 1 or random_start or step_size is not None:
                raise ValueError(
                    f"Received epsilon_norm={epsilon_norm!r} with steps={steps}, "
                    f"random_start={random_start}, step_size={step_size}; it is defined for a "
                    "single step from the clean image. Drop it, or use steps=1 and nothing else."
                )
        self.threat = Threat(epsilon_norm or norm, epsilon, bounds)
        if self.threat.epsilon is None:
            raise ValueError("Received epsilon=None; expected a length, such as 8/255.")
        self.norm, self.epsilon, self.bounds = norm, self.threat.epsilon, self.threat.bounds
        self.steps, self.step_size = steps, step_size
        self.random_start = random_start
        self.statistics = check_choice(statistics, "statistics", STATISTICS)
        self.epsilon_norm = epsilon_norm

    def images(self, step):
        norm = geometry.get(self.norm)
        if self.epsilon_norm is not None:
            direction = norm.steepest(movable(step.clean.gradient, step.x, self.bounds))
            direction = geometry.get(self.epsilon_norm).rescale(direction, self.epsilon)
            return ops.stop_gradient(to_bounds(step.x + direction, self.bounds))
        step_size = self.step_size
        if step_size is None:
            step_size = self.epsilon * (1.0 if self.steps == 1 else 2.5 / self.steps)
        if self.random_start:
            start = norm.random(step.keys(_NOISE), ops.shape(step.x)[1:], self.epsilon)
            start = to_bounds(step.x + ops.cast(start, step.x.dtype), self.bounds)
            gradient = step.crafting_gradient(start)
        else:
            start, gradient = step.x, step.clean.gradient
        images = ascend(
            step.crafting_gradient,
            start,
            gradient,
            step.x,
            norm,
            self.epsilon,
            step_size,
            self.steps,
            self.bounds,
        )
        return ops.stop_gradient(images)
