"""Accuracy under random noise, beside attacks: what happens, not what could."""

from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from keras_pde import noise
from keras_pde.attacks.ascent import to_bounds
from keras_pde.attacks.programs import in_batches
from keras_pde.checks import check_number, limits
from keras_pde.registry import unknown_name

_STREAM = 1 << 20  # beyond the restarts of attacks, whose noise is of the same seed


@dataclass(frozen=True)
class NoiseRun:
    """One kind of noise on all examples, one draw each: `accuracy` is the share that stays right.

    `amount` is the standard deviation of `"gaussian"` noise, the half width of `"uniform"`, and the
    share of entries that `"salt_and_pepper"` sets to the ends of the bounds. What leaves the bounds
    is clipped.
    """

    kind: str
    amount: float
    accuracy: float


def _gaussian(x, keys, amount, bounds):
    return x + amount * noise.normal(keys, x.shape[1:], x.dtype)


def _uniform(x, keys, amount, bounds):
    return x + amount * (2 * noise.uniform(keys, x.shape[1:], x.dtype) - 1)


def _salt_and_pepper(x, keys, amount, bounds):
    low, high = (ops.convert_to_tensor(end, x.dtype) for end in limits(bounds))
    drawn = noise.uniform(keys, x.shape[1:], x.dtype)
    x = ops.where(drawn < amount / 2, low, x)
    return ops.where(drawn > 1 - amount / 2, high, x)


KINDS = {"gaussian": _gaussian, "uniform": _uniform, "salt_and_pepper": _salt_and_pepper}


def _values(end):
    return np.asarray(end).tolist()


def check(wanted, bounds):
    """The (kind, amount) pairs; a `ValueError` if one is none."""
    pairs = []
    for entry in wanted or ():
        try:
            kind, amount = entry
        except (TypeError, ValueError):
            raise ValueError(
                f"Received noise={wanted!r}; expected pairs of a kind and an amount, such as "
                "[('gaussian', 0.1)]."
            ) from None
        if kind not in KINDS:
            raise unknown_name("kind of noise", kind, KINDS)
        share = kind == "salt_and_pepper"
        if share and bounds is None:
            raise ValueError(
                "Received salt_and_pepper noise without bounds, to whose ends it sets entries; "
                "expected bounds=(low, high)."
            )
        most = {"most": 1} if share else {}
        pairs.append((kind, check_number(amount, f"the amount of {kind} noise", above=0, **most)))
    return pairs


def run(pairs, target, inputs, y, bounds, seed, batch_size) -> tuple[NoiseRun, ...]:
    """The accuracy under each kind and amount."""
    if not pairs:
        return ()
    x, context = target.parts(inputs, batch_size)
    y = target.labels(y, len(x))
    found = []
    for number, (kind, amount) in enumerate(pairs):

        def noisy(logits, images, examples, kind=kind, amount=amount, number=number):
            keys = noise.keys(seed, _STREAM + number, examples)
            return logits(to_bounds(KINDS[kind](images, keys, amount, bounds), bounds))

        # Bounds may be arrays.
        key = ("noise", kind, amount, number, seed, repr(keras.tree.map_structure(_values, bounds)))
        examples = np.arange(len(x), dtype="int32")
        outputs = in_batches(target.program(key, noisy), batch_size, x, examples, *context)
        accuracy = float(np.mean(~target.success.wrong(outputs, y)))
        found.append(NoiseRun(kind, amount, accuracy))
    return tuple(found)
