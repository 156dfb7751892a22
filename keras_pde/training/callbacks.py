"""Callbacks: `kp.callbacks`."""

from keras_pde.training.evaluation_weights import EvaluationWeights
from keras_pde.training.optimizer_logger import OptimizerLogger
from keras_pde.training.recalibrate_batch_norm import RecalibrateBatchNorm
from keras_pde.training.refine_depth import RefineDepth
from keras_pde.training.robust_validation import RobustValidation

__all__ = [
    "EvaluationWeights",
    "OptimizerLogger",
    "RecalibrateBatchNorm",
    "RefineDepth",
    "RobustValidation",
]
