"""Attacks: `kp.attacks`."""

from keras_pde.attacks.attack import Attack, AttackResult
from keras_pde.attacks.fgsm import FGSM
from keras_pde.attacks.get import get
from keras_pde.attacks.iterated import IteratedAttack
from keras_pde.attacks.minimal_distance import MinimalDistance
from keras_pde.attacks.pgd import PGD
from keras_pde.attacks.target import Target

__all__ = [
    "FGSM",
    "PGD",
    "Attack",
    "AttackResult",
    "IteratedAttack",
    "MinimalDistance",
    "Target",
    "get",
]
