"""How robust a model is, and how sure we are: `kp.evaluate` and its `Report`."""

from keras_pde.evaluation.comparison import Comparison
from keras_pde.evaluation.evaluate import default_attacks, evaluate
from keras_pde.evaluation.measurement import Measurement
from keras_pde.evaluation.report import AttackRun, Report

__all__ = ["AttackRun", "Comparison", "Measurement", "Report", "default_attacks", "evaluate"]
