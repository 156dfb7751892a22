"""Reports that say what a network does, from its equations and its weights."""

from keras_pde.analysis import hamilton_jacobi
from keras_pde.analysis.convergence_report import (
    ConvergenceReport,
    SolverResult,
    convergence_report,
)
from keras_pde.analysis.stability_report import LayerStability, StabilityReport, stability_report

__all__ = [
    "ConvergenceReport",
    "LayerStability",
    "SolverResult",
    "StabilityReport",
    "convergence_report",
    "hamilton_jacobi",
    "stability_report",
]
