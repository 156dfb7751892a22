"""Callbacks: `kp.callbacks`."""

from keras_pde.callbacks.evaluation_weights import EvaluationWeights
from keras_pde.callbacks.optimizer_logger import OptimizerLogger
from keras_pde.callbacks.recalibrate_batch_norm import RecalibrateBatchNorm
from keras_pde.callbacks.refine_depth import RefineDepth
from keras_pde.callbacks.robust_validation import RobustValidation

__all__ = [
    "EvaluationWeights",
    "OptimizerLogger",
    "RecalibrateBatchNorm",
    "RefineDepth",
    "RobustValidation",
]
