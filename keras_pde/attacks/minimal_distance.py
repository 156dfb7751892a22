from keras import ops

from keras_pde import geometry
from keras_pde.attacks import losses
from keras_pde.attacks.ascent import ascent_step, where_rows
from keras_pde.attacks.iterated import IteratedAttack
from keras_pde.checks import check_count, check_number, limits, optional
from keras_pde.registry import register

_GROWTHS = 20  # enlargements of the radius before the search gives up
_GROWTH = 1.5


@register("attack", "minimal_distance", norm="l2")
class MinimalDistance(IteratedAttack):
    """The smallest perturbation that changes the class: bisection over a gradient attack's radius.

    For each image, trials of a normalised-gradient attack (`steps` steps of length radius / 6 from
    the clean image, stopped at the first success) enlarge the radius by 1.5 until one succeeds,
    then bisect between the largest failure and the smallest success. The closest misclassified
    image of all trials is kept, so the distance is an upper bound of the true one.

    This is the protocol behind the table of Finlay, Oberman and Abbasi (2018, arXiv 1810.00953),
    with two changes: bisection starts at the last failure, not at 0, and a success counts with the
    distance it attained. A failed search is infinitely far, not at distance 0 as in that code.

    Args:
        norm: `"l1" | "l2" | "linf"`, norm of the perturbation.
        steps: iterations of a trial.
        bisections: largest number of halvings.
        tolerance: relative width of the bracket at which bisection ends.
        initial_radius: first radius; default 0.3 of the diameter of `bounds` in the norm: 0.3 in
            `"linf"`, 0.3 sqrt(N) in `"l2"`, 0.3 N in `"l1"` for N entries in [0, 1] (and without
            bounds).
        loss: `"ce"`, `"dlr"` or `"margin"`.
        bounds: range of valid images, as in `keras_pde.Threat`.

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> result = MinimalDistance("l2")(model, x_test, y_test)
    >>> np.median(result.distance)
    """

    stops_when_fooled = False
    minimal = True
    in_state = ("steps", "bisections", "tolerance", "initial_radius")

    def __init__(
        self,
        norm,
        steps=10,
        bisections=20,
        tolerance=0.01,
        initial_radius=None,
        loss="ce",
        bounds=(0.0, 1.0),
    ):
        super().__init__(norm, bounds=bounds)
        losses.get(loss)
        self.loss = loss
        self.steps = check_count(steps, "steps")
        self.bisections = check_count(bisections, "bisections", least=0)
        self.tolerance = check_number(tolerance, "tolerance", least=0, below=1)
        self.initial_radius = optional(check_number, initial_radius, "initial_radius", above=0)

    @classmethod
    def paper2018(cls, norm):
        """All 20 bisections, as the published table was made."""
        return cls(norm, tolerance=0.0)

    def _first_radius(self, x):
        if self.initial_radius is not None:
            return self.initial_radius
        low, high = limits(self.bounds or (0.0, 1.0))
        return 0.3 * geometry.get(self.norm).diameter(high - low, x.shape[1:])

    def start(self, x, keys):
        one = ops.ones((x.shape[0],), dtype=x.dtype)
        zero = ops.zeros((x.shape[0],), dtype="int32")
        return {
            "images": x,
            "clean_gradient": ops.zeros_like(x),
            "k": zero,  # steps made in this trial
            "radius": self._first_radius(x) * one,
            "low": 0.0 * one,  # largest radius that failed
            "high": float("inf") * one,  # smallest distance found
            "trials": zero,  # ended, of the phase at hand
            "steps": zero + self.steps,
            "bisections": zero + self.bisections,
            "tolerance": self.tolerance * one,
        }

    def advance(self, state, evaluated, x):
        norm = geometry.get(self.norm)
        images, k, high = state["images"], state["k"], state["high"]
        clean_gradient = where_rows(ops.equal(k, 0), evaluated.gradient, state["clean_gradient"])

        # How the trial ended, if it did.
        success = evaluated.fooled
        ended = success | (k >= state["steps"])
        failed = ended & ~success
        length = norm.norm(images - x)
        closer = success & (length < high)
        best = where_rows(closer, images, state["best"])

        # The bracket, and the next radius.
        found_before = state["fooled"]
        fooled = found_before | success
        new_high = ops.where(closer, length, high)
        low = ops.where(failed, state["radius"], state["low"])
        # A trial may succeed below an earlier failure, which then bounds nothing.
        low = ops.where(low < new_high, low, 0.0 * low)
        trials = state["trials"] + ops.cast(ended, "int32")
        trials = ops.where(success & ~found_before, ops.ones_like(trials), trials)
        middle = (low + ops.where(fooled, new_high, low)) / 2.0
        next_radius = ops.where(fooled, middle, state["radius"] * _GROWTH)
        radius = ops.where(ended, next_radius, state["radius"])
        narrow = new_high - low <= state["tolerance"] * new_high
        done = ops.where(fooled, narrow | (trials > state["bisections"]), trials > _GROWTHS)

        # The next step: on from here, or the first one of a new trial.
        k = ops.where(ended, ops.zeros_like(k), k)
        base = where_rows(ended, x, images)
        gradient = where_rows(ended, clean_gradient, evaluated.gradient)
        images = ascent_step(base, gradient, x, norm, radius, radius / 6.0, self.bounds)
        return {
            "images": images,
            "clean_gradient": clean_gradient,
            "best": best,
            "fooled": fooled,
            "k": k + 1,
            "radius": radius,
            "low": low,
            "high": new_high,
            "trials": trials,
            "done": ended & done,
        }
