"""Optimizers from partial differential equations, for `model.compile`."""

from keras_pde.optimizers.alig import ALIG
from keras_pde.optimizers.anchored_optimizer import AnchoredOptimizer
from keras_pde.optimizers.asam import ASAM
from keras_pde.optimizers.cyclic_optimizer import CyclicOptimizer
from keras_pde.optimizers.entropy_sgd import EntropySGD
from keras_pde.optimizers.evaluation_weights import evaluation_weights
from keras_pde.optimizers.fixed_point_hj import FixedPointHJ
from keras_pde.optimizers.hamilton_jacobi import HamiltonJacobi
from keras_pde.optimizers.heat_sgd import HeatSGD
from keras_pde.optimizers.lookahead import Lookahead
from keras_pde.optimizers.loss_aware_optimizer import LossAwareOptimizer
from keras_pde.optimizers.loss_scale_optimizer import LossScaleOptimizer
from keras_pde.optimizers.sagd import SAGD
from keras_pde.optimizers.salr import SALR
from keras_pde.optimizers.sam import SAM
from keras_pde.optimizers.sps import SPS
from keras_pde.optimizers.stochastic_weight_averaging import StochasticWeightAveraging
from keras_pde.optimizers.wrapper_optimizer import WrapperOptimizer

__all__ = [
    "ALIG",
    "ASAM",
    "SAGD",
    "SALR",
    "SAM",
    "SPS",
    "AnchoredOptimizer",
    "CyclicOptimizer",
    "EntropySGD",
    "FixedPointHJ",
    "HamiltonJacobi",
    "HeatSGD",
    "Lookahead",
    "LossAwareOptimizer",
    "LossScaleOptimizer",
    "StochasticWeightAveraging",
    "WrapperOptimizer",
    "evaluation_weights",
]
