"""Which layers of a network are stable steps of their equations, and what would make them so."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_pde import _keras
from keras_pde.analysis.spectrum import spectrum_on
from keras_pde.integrators import Scheme
from keras_pde.layers import ContinuousBlock
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
        suggested_gamma: for steps that are not stable, of an equation with damping: a gamma with
            which they are; None if that would not do.
        spectrum: the complex numbers.
        integrator: the `Scheme` itself.
        on_data: whether the spectrum is that of the Jacobian where some inputs went, an estimate;
            else it bounds all that there are.
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
    on_data: bool = False

    @classmethod
    def of(cls, layer, spectrum=None):
        on_data = spectrum is not None
        h = layer.horizon / layer.steps if on_data else layer.step_size
        scheme, spectrum = layer.scheme, spectrum if on_data else np.asarray(layer.spectrum())
        z = h * spectrum
        stable, limit = scheme.is_stable(z), largest_step(scheme, spectrum)
        steps = gamma = None
        if not stable and limit and hasattr(layer, "horizon"):
            steps = math.ceil(layer.horizon / limit)
        if not stable and hasattr(layer, "gamma"):
            gamma = _damping(layer, scheme, h, spectrum)
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
            on_data=on_data,
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
        not_judged: names of the continuous blocks that need inputs to be judged.
    """

    name: str
    rows: tuple[LayerStability, ...]
    not_judged: tuple[str, ...] = ()

    @property
    def stable(self) -> bool:
        """Whether every layer is that was judged."""
        return all(row.stable for row in self.rows)

    def table(self) -> str:
        """Readable summary."""
        head = ("layer", "kind", "scheme", "h", "bound", "largest h", "growth", "verdict", "fix")
        title = f"{self.name}: linear stability of {len(self.rows)} layers"
        note = "For weights frozen at one depth and time; sufficient, and no bound of gradients."
        if any(row.on_data for row in self.rows):
            note += "\nContinuousBlock: an estimate, where the inputs given went."
        if self.not_judged:
            note += f"\nNot judged without inputs x: {', '.join(self.not_judged)}."
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


def stability_report(
    model_or_layer: keras.Model | keras.layers.Layer, x: Any = None
) -> StabilityReport:
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

    Of a `ContinuousBlock` around any layer there is no such bound. With inputs `x` the eigenvalues
    of its Jacobian at the states that they pass through are judged: an estimate.

    Args:
        model_or_layer: a built Keras model or layer, with recurrent cells and nested models.
        x: inputs of the model, of which the first 8 are used for continuous blocks.

    Returns:
        A `StabilityReport`.

    Raises:
        ValueError: no layer has these three, or one is not built.

    Example:

    >>> print(keras_pde.analysis.stability_report(model))
    """
    layers = _keras.layers_of(model_or_layer)
    judged = [layer for layer in layers if _is_judged(layer)]
    blocks = [n for n in layers if isinstance(n, ContinuousBlock) and not hasattr(n, "spectrum")]
    if not judged and (x is None or not blocks):
        fix = (
            "inputs x, on which to judge its continuous blocks"
            if blocks
            else (
                "a layer such as `AntisymmetricBlock`, `HamiltonianBlock`, `ParabolicBlock` or "
                "`SecondOrderBlock` of `keras_pde.layers`"
            )
        )
        raise ValueError(
            f"Received {model_or_layer.name!r}, in which no layer has a stability to judge; "
            f"expected {fix}."
        )
    rows = [LayerStability.of(layer) for layer in judged]
    if x is not None:
        rows += [LayerStability.of(n, spectrum_on(model_or_layer, n, x)) for n in blocks]
    left = () if x is not None else tuple(block.name for block in blocks)
    return StabilityReport(model_or_layer.name, tuple(rows), left)


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


def _damping(layer, scheme, h, spectrum):
    """The least gamma with which a step is stable; `None` if there is none."""
    rate = getattr(layer, "damping_rate", None)
    if rate is None:  # of a block, whose spectrum is a triangle that gamma makes longer
        known = scheme.name == "euler"
        return _euler_damping(h, float(abs(spectrum.imag).max())) if known else None

    def is_stable(extra):
        return scheme.is_stable(h * (spectrum - rate * extra))

    tried = np.linspace(0, 2 / (rate * h), 201)
    first = next((i for i, extra in enumerate(tried) if is_stable(extra)), None)
    if not first:
        return None
    low, high = tried[first - 1], tried[first]
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if is_stable(middle) else (middle, high)
    return float(layer.gamma + high)


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
