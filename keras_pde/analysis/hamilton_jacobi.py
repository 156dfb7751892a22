"""What the optimizers of the Hamilton-Jacobi family compute, exactly, in one dimension.

With time t = 1 / scope and inverse temperature beta = 1 / temperature the local entropy

    u(x, t) = -(1 / beta) log E exp(-beta f(y)),  y ~ N(x, t / beta),

solves the viscous Hamilton-Jacobi equation u_t + u_x^2 / 2 = u_xx / (2 beta), u(x, 0) = f(x) (Cole
and Hopf). Without viscosity, beta to infinity, it becomes the Moreau envelope (Hopf and Lax)

    u(x, t) = min_y f(y) + (x - y)^2 / (2 t).

`f` is a function of NumPy arrays of any shape throughout; x is an array or a number.

Source: Chaudhari, Oberman, Osher, Soatto and Carlier, "Deep relaxation: partial differential
equations for optimizing deep neural networks", 2018 (arXiv 1704.04932).
"""

from dataclasses import dataclass

import numpy as np
import scipy  # its parts are loaded where they are used, not at the start

from keras_pde import figures
from keras_pde.checks import check_count, check_number

_POINTS = 4001  # of a quadrature, by the trapezoidal rule
_NEGLIGIBLE = 40.0  # logarithm of a factor below rounding


@dataclass(frozen=True)
class LocalEntropy:
    """`local_entropy`: arrays of the shape of x.

    Attributes:
        value: u(x, t).
        slope: u_x(x, t) = (x - mean) / t.
        mean: of y under the Gibbs law exp(-beta f(y) - beta (x - y)^2 / (2 t)).
        variance: of y under it; u_xx = (1 - beta variance / t) / t.
    """

    value: np.ndarray
    slope: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


def local_entropy(f, x, t, beta) -> LocalEntropy:
    """The viscous solution by quadrature.

    Args:
        f: function of arrays, bounded below.
        x: array or number.
        t: above 0.
        beta: above 0, finite; `hopf_lax` is the limit.

    Raises:
        ValueError: t or beta is out of range.
    """
    t, beta = _checked(t, beta)
    x = np.asarray(x, "float64")

    def exponent(y):
        return -beta * (f(y) + (x[..., None] - y) ** 2 / (2 * t))

    # First wide enough that nothing is left beyond the ends, then only where there is something.
    reach = np.sqrt(t / beta)
    while True:
        y = x[..., None] + reach * np.linspace(-1, 1, _POINTS)
        values = exponent(y)
        counts = values > values.max(-1, keepdims=True) - _NEGLIGIBLE
        if not counts[..., [0, -1]].any():
            break
        reach = 2 * reach
    low, high = np.where(counts, y, np.inf).min(-1), np.where(counts, y, -np.inf).max(-1)
    y = low[..., None] + (high - low)[..., None] * np.linspace(0, 1, _POINTS)
    values = exponent(y)
    norm = scipy.special.logsumexp(values, axis=-1)
    gibbs = np.exp(values - norm[..., None])
    mean = (gibbs * y).sum(-1)
    variance = (gibbs * (y - mean[..., None]) ** 2).sum(-1)
    spacing = (high - low) / (_POINTS - 1)
    value = -(norm + np.log(spacing) - np.log(2 * np.pi * t / beta) / 2) / beta
    return LocalEntropy(value, (x - mean) / t, mean, variance)


def sampled_slope(f, x, t, beta, samples=10_000, seed=0):
    """u_x by importance sampling, for points of any dimension and without derivatives.

    y ~ N(x, t / beta) with weights exp(-beta f(y)): (x - E[y w] / E[w]) / t. The error is of the
    order of 1 / sqrt(samples), and large where f varies by many temperatures.

    Source: Heaton, Wu Fung and Osher, "Global solutions to nonconvex problems by evolution of
    Hamilton-Jacobi PDEs", 2022 (arXiv 2202.11014).

    Args:
        f: function of an array `(samples, dimension)`, which gives `(samples,)`.
        x: point `(dimension,)`.
        t, beta: above 0.
        samples: how many y, at least 1.
        seed: integer.

    Returns:
        `(dimension,)`.

    Raises:
        ValueError: t, beta or samples is out of range.
    """
    t, beta = _checked(t, beta)
    samples = check_count(samples, "samples")
    x = np.asarray(x, "float64")
    z = np.random.default_rng(seed).normal(size=(samples, *x.shape))
    y = x + np.sqrt(t / beta) * z
    weights = scipy.special.softmax(-beta * f(y))
    return (x - weights @ y) / t


def hopf_lax(f, x, t, y):
    """The solution without viscosity, and its proximal points, over candidates y.

    Args:
        f: function of arrays.
        x: array or number.
        t: above 0.
        y: array `(n,)` of candidates, a fine grid around the x. The error is of the order of the
            square of its spacing.

    Returns:
        (u, y*) of the shape of x.

    Raises:
        ValueError: t is out of range.
    """
    t = check_number(t, "t", above=0)
    x = np.asarray(x, "float64")
    costs = f(y) + (x[..., None] - y) ** 2 / (2 * t)
    best = costs.argmin(-1)
    return np.take_along_axis(costs, best[..., None], -1)[..., 0], y[best]


def heat(f, x, t, beta):
    """E f(y), y ~ N(x, t / beta): the heat equation's solution, by quadrature.

    Args:
        f: function of arrays.
        x: array or number.
        t, beta: above 0.

    Returns:
        An array of the shape of x.

    Raises:
        ValueError: t or beta is out of range.
    """
    t, beta = _checked(t, beta)
    x = np.asarray(x, "float64")
    z = np.linspace(-1, 1, _POINTS) * np.sqrt(2 * _NEGLIGIBLE)
    weights = np.exp(-(z**2) / 2)
    return (f(x[..., None] + np.sqrt(t / beta) * z) * weights).sum(-1) / weights.sum()


def finite_differences(f, x, t, beta=np.inf):
    """The solution at time t on a grid, by finite differences: Godunov's upwind Hamiltonian.

    First order in the spacing. Nothing enters through the ends: without viscosity it is that of
    Hopf and Lax with y in the grid's interval; with viscosity, ends do not bend.

    Args:
        f: function of arrays.
        x: equidistant grid `(n,)`, which rises.
        t: at least 0.
        beta: above 0; infinite for no viscosity.

    Returns:
        u(x, t), `(n,)`.

    Raises:
        ValueError: an argument is out of range, or the grid is not equidistant.
    """
    t = check_number(t, "t", least=0)
    beta = beta if beta == np.inf else check_number(beta, "beta", above=0)
    x = np.asarray(x, "float64")
    spacings = np.diff(x)
    if x.ndim != 1 or len(x) < 3 or not np.allclose(spacings, abs(spacings[0]), rtol=1e-6):
        raise ValueError(
            f"Received a grid x of shape {x.shape} that is not equidistant and rising; expected "
            "one such as numpy.linspace(-3, 3, 601)."
        )
    spacing, start = spacings[0], f(x)

    def derivative(_, u):
        slopes = np.diff(u) / spacing
        # At an end the slope beyond it would be one downwind, by which roundings grow.
        rising = np.append(0, np.maximum(slopes, 0))
        falling = np.append(np.minimum(slopes, 0), 0)
        bend = np.concatenate([[0], np.diff(slopes), [0]]) / spacing
        return -np.maximum(rising**2, falling**2) / 2 + bend / (2 * beta)

    if np.isfinite(beta):  # stiff, and each value depends on its neighbours only
        options = {"method": "LSODA", "lband": 1, "uband": 1}
    else:
        # Error control alone would go to the edge of stability, where roundings decide. The largest
        # slope never grows, so that this is a Courant number of at most 1/2 throughout.
        steepest = abs(np.diff(start)).max() / spacing
        options = {"max_step": spacing / (2 * steepest) if steepest else np.inf}
    found = scipy.integrate.solve_ivp(derivative, (0, t), start, rtol=1e-6, atol=1e-9, **options)
    if not found.success:
        raise ValueError(
            f"Received t={t} and beta={beta}, for which the integration failed ({found.message}); "
            "expected a smoother f, a coarser grid or a shorter time."
        )
    return found.y[:, -1]


def _checked(t, beta):
    return check_number(t, "t", above=0), check_number(beta, "beta", above=0)


def expected_improvement(a, v, time, start, noise):
    """Expected improvement by control, in closed form, for quadratics.

    For dX = -a X ds - alpha ds + sqrt(noise) dW from `start`, with the final cost v X^2 / 2, the
    optimal control is alpha = u_x of the Hamilton-Jacobi-Bellman equation, and

        E V(X with control) <= E V(X without) - (1 / 2) E int alpha^2 ds.

    Args:
        a, v: curvatures of the loss and of the final cost, above 0.
        time: above 0.
        start: X at the beginning.
        noise: variance per unit of time.

    Returns:
        `(E V without control, E V with control, E int alpha^2 ds)`.
    """

    def P(tau):
        decay = np.exp(-2 * a * tau)
        return 2 * a * v * decay / (2 * a + v * (1 - decay))

    decay = np.exp(-2 * a * time)
    free = v / 2 * (start**2 * decay + noise * (1 - decay) / (2 * a))

    # With control the second moment s satisfies s' = -2 (a + P(time - r)) s + noise.
    def moments(r, values):
        s, _ = values
        gain = P(time - r)
        return [-2 * (a + gain) * s + noise, gain**2 * s]

    end = scipy.integrate.solve_ivp(moments, (0, time), [start**2, 0.0], rtol=1e-11, atol=1e-13).y[
        :, -1
    ]
    return free, v / 2 * end[0], end[1]


def cartoon(path=None, seed=0):
    """Draws a rough function and what both equations make of it, as in the paper's figure.

    f = x^2 + 1.5 sin(2 pi x) + smooth noise on [-3, 3]; the viscous equation at time 0.2 with beta
    = 1, and the one without viscosity at time 0.1.

    Args:
        path: image file, whose suffix says the format; None writes none.
        seed: integer, of the noise.

    Returns:
        A Matplotlib `Figure`.
    """
    x = np.linspace(-3, 3, 1201)
    y = np.linspace(-4, 4, 1601)
    noise = np.random.default_rng(seed).normal(size=len(y))
    noise = scipy.ndimage.gaussian_filter1d(noise, 12)
    noise *= 0.5 / noise.std()

    def f(y_):
        return y_**2 + 1.5 * np.sin(2 * np.pi * y_) + np.interp(y_, y, noise)

    figure, (axes,) = figures.new(7, 4)
    axes.plot(x, f(x), "0.6", label="f")
    axes.plot(x, local_entropy(f, x, 0.2, 1.0).value, label="viscous: local entropy")
    axes.plot(x, hopf_lax(f, x, 0.1, y)[0], label="non-viscous: Moreau envelope")
    axes.set(xlabel="x", ylim=(f(x).min() - 1, 9))
    axes.legend()
    return figures.done(figure, path)
