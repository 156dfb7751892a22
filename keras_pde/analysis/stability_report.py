"""Which layers of a network are stable steps of their equations, and what would make them so."""

import dataclasses
import math
from dataclasses import dataclass

import keras
import numpy as np

from keras_pde import _keras
from keras_pde.integrators import Scheme
from keras_pde.records import ToJSON, plain
from keras_pde.text import table

# Of h times the largest eigenvalue: no explicit scheme is stable beyond, and none of the limits
# of the known ones lies between two of these.
_SCAN = np.linspace(0, 20, 401)[1:]


@dataclass(frozen=True)
class LayerStability:
    """One layer: a scheme's step of length h, for an equation with this spectrum.

    Attributes:
        name: of the layer.
        kind: its class.
        scheme: name of the scheme.
        step_size: h.
        bound: largest modulus in the spectrum, a bound of the linearised equation's eigenvalues.
        limit: largest stable h; 0 if there is none, infinite if all are.
        growth: largest factor by which one step multiplies a solution of the linear equation.
        stable: whether that is at most 1, up to float rounding.
        suggested_steps: for blocks that are not stable: a number of steps that is; else None.
        suggested_gamma: for Euler steps that are not stable, of an antisymmetric equation: the
            damping with which they are; else None.
        spectrum: the complex numbers.
        integrator: the `Scheme` itself.
    """

    name: str
    kind: str
    scheme: str
    step_size: float
    bound: float
    limit: float
    growth: float
    stable: bool
    suggested_steps: int | None
    suggested_gamma: float | None
    spectrum: np.ndarray = dataclasses.field(repr=False, compare=False)
    integrator: Scheme = dataclasses.field(repr=False, compare=False)

    @classmethod
    def of(cls, layer):
        scheme, h, spectrum = layer.scheme, layer.step_size, np.asarray(layer.spectrum())
        z = h * spectrum
        stable, limit = scheme.is_stable(z), largest_step(scheme, spectrum)
        steps = gamma = None
        if not stable and limit and hasattr(layer, "horizon"):
            steps = math.ceil(layer.horizon / limit)
        if not stable and scheme.name == "euler" and hasattr(layer, "gamma"):
            gamma = _euler_damping(h, float(abs(spectrum.imag).max()))
        return cls(
            name=layer.name,
            kind=type(layer).__name__,
            scheme=scheme.name,
            step_size=h,
            bound=float(abs(spectrum).max()),
            limit=limit,
            growth=float(scheme.amplification(z).max()),
            stable=stable,
            suggested_steps=steps,
            suggested_gamma=gamma,
            spectrum=spectrum,
            integrator=scheme,
        )

    @property
    def suggestion(self) -> str:
        """What would make it stable, in words; nothing if it is."""
        if self.stable:
            return ""
        found = []
        if self.suggested_steps is not None:
            found.append(f"steps >= {self.suggested_steps}")
        if self.suggested_gamma is not None:
            found.append(f"gamma >= {self.suggested_gamma:.3g}")
        if not found and self.limit:
            found.append(f"step size <= {self.limit:.3g}")
        return " or ".join(found) or "another scheme"


@dataclass(frozen=True)
class StabilityReport(ToJSON):
    """What `stability_report` found, one row a layer.

    Attributes:
        name: of the model.
        rows: one `LayerStability` a layer.
    """

    name: str
    rows: tuple[LayerStability, ...]

    @property
    def stable(self) -> bool:
        """Whether every layer is."""
        return all(row.stable for row in self.rows)

    def table(self) -> str:
        """Readable summary."""
        head = ("layer", "kind", "scheme", "h", "bound", "largest h", "growth", "verdict", "fix")
        title = f"{self.name}: linear stability of {len(self.rows)} layers"
        note = "For weights frozen at one depth and time; sufficient, and no bound of gradients."
        return table(title, head, map(_cells, self.rows), note)

    def __str__(self) -> str:
        return self.table()

    def to_dict(self) -> dict:
        """The report as JSON holds it; an infinite limit becomes None."""
        rows = []
        for row in self.rows:
            values = {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}
            del values["spectrum"], values["integrator"]
            rows.append({**values, "suggestion": row.suggestion})
        return plain({"name": self.name, "stable": self.stable, "layers": rows})

    def plot(self, path=None):
        """Draws, for each scheme, where a step does not grow, and h times the spectra.

        Args:
            path: image file, whose suffix says the format; None writes none.

        Returns:
            A Matplotlib `Figure`.
        """
        from keras_pde.analysis.stability_plot import draw

        return draw(self, path)


def stability_report(model_or_layer: keras.Model | keras.layers.Layer) -> StabilityReport:
    """Judges every layer of a model that is a numerical step of a differential equation.

    Such a layer has a `scheme`, a `step_size` h and a `spectrum()`, numbers lambda around the
    eigenvalues of its linearised right-hand side. One step of the scheme multiplies solutions of
    y' = lambda y by at most its amplification at h lambda; the layer is stable if that is at most 1
    for all of them.

    This is linear stability with coefficients that are frozen at one depth or time, for the weights
    as they are, by upper bounds of norms. It promises no exponential growth of the linearised
    flow. It does not promise that gradients are bounded: sensitivity can grow with depth, although
    not exponentially, by shear between trajectories (Galimberti et al., 2021, arXiv 2105.13205);
    nor does it see weights that change fast with depth. A layer that is not stable by these bounds
    may be so for the inputs it meets.

    Source: Hairer and Wanner, Solving Ordinary Differential Equations II, IV.2; for networks, Haber
    and Ruthotto, 2017 (arXiv 1705.03341).

    Args:
        model_or_layer: a built Keras model or layer, with recurrent cells and nested models.

    Returns:
        A `StabilityReport`.

    Raises:
        ValueError: no layer has these three, or one is not built.

    Example:

    >>> print(keras_pde.analysis.stability_report(model))
    """
    layers = _keras.layers_of(model_or_layer)
    judged = [layer for layer in layers if _is_judged(layer)]
    if not judged:
        raise ValueError(
            f"Received {model_or_layer.name!r}, in which no layer has a stability to judge; "
            "expected a layer such as `AntisymmetricBlock`, `HamiltonianBlock`, `ParabolicBlock` "
            "or `SecondOrderBlock` of `keras_pde.layers`."
        )
    rows = tuple(LayerStability.of(layer) for layer in judged)
    return StabilityReport(model_or_layer.name, rows)


def largest_step(scheme, spectrum) -> float:
    """The largest h up to which no step grows, 0 if any does, infinite if none does."""
    radius = abs(spectrum).max()
    if not radius:
        return math.inf
    directions = spectrum / radius
    first = next((i for i, h in enumerate(_SCAN) if not scheme.is_stable(h * directions)), None)
    if first is None:
        return math.inf
    low, high = (_SCAN[first - 1] if first else 0.0), _SCAN[first]
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if scheme.is_stable(middle * directions) else (low, middle)
    # Growth that begins with the smallest step passes for rounding there: h w = 0.009 with Heun's
    # method makes 1 + 8e-10. At half the step it is still there, unlike where there is a limit.
    vanishes = scheme.amplification(low / 2 * directions).max() - 1 < 1e-12
    return float(low / radius) if vanishes else 0.0


def _euler_damping(h, w):
    """The least gamma with |1 + h (-gamma + i w)| <= 1: h (gamma^2 + w^2) <= 2 gamma."""
    return None if h * w > 1 else (1 - math.sqrt(1 - (h * w) ** 2)) / h


def _is_judged(layer):
    return all(hasattr(layer, name) for name in ("scheme", "step_size", "spectrum"))


def _cells(row):
    limit = {0.0: "none", math.inf: "any"}.get(row.limit, f"{row.limit:.4g}")
    return (
        row.name,
        row.kind,
        row.scheme,
        f"{row.step_size:.4g}",
        f"{row.bound:.4g}",
        limit,
        f"{row.growth:.6g}",
        "stable" if row.stable else "unstable",
        row.suggestion or "-",
    )
