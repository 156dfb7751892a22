"""What an optimizer remembers of its variables, when some of these change their coefficients."""

import keras
import numpy as np
from keras import ops

from keras_pde import _keras
from keras_pde.optimizers.base_optimizer import BaseOptimizer, averages

# Those of this library's own optimizers beside those of Keras'.
_KINDS = {
    **_keras.SLOT_KINDS,
    "_average_gradients": "gradients",
    "_gradient_sums": "gradients",
    "_anchors": "weights",
    "_means": "weights",
}


def carried_over(optimizer, variables, transfers):
    """A new optimizer for the changed variables, which goes on where the old one was.

    Args:
        optimizer: the built optimizer.
        variables: the new variables, in the order of the old ones.
        transfers: position of a changed variable -> its `bases.Transfer`.

    Returns:
        An optimizer of the same configuration, learning rate and iterations. Entries of kinds that
        are not known here start anew for the changed variables.
    """
    new = type(optimizer).from_config(optimizer.get_config())
    new.build(variables)
    changed = {id(_keras.trained_by(optimizer)[i]): t for i, t in transfers.items()}
    for old, fresh in zip(nested(optimizer), nested(new), strict=True):
        if old.built:
            if isinstance(old, BaseOptimizer):
                old.was_asked()  # from now on, the new one is
            _carry(old, fresh, [changed.get(id(v)) for v in _keras.trained_by(old)])
    return new


def carry_exclusions(old, new, variables, fresh):
    """What the old optimizer does not decay of its variables, the new one does not of the fresh."""
    for one, other in zip(nested(old), nested(new), strict=True):
        pairs = zip(variables, fresh, strict=True)
        kept = [target for variable, target in pairs if not _keras.decays(one, variable)]
        if kept:
            _keras.leave_undecayed(other, kept)


def skip(optimizer, batches):
    """The built optimizer counts as if that many batches had passed; averages begin here."""
    optimizer.iterations.assign(batches)
    if isinstance(optimizer, BaseOptimizer):
        optimizer.begin_fit()
    for variable, average in averages(optimizer):
        average.assign(np.array(ops.convert_to_numpy(variable)))
    for part in _inside(optimizer):
        skip(part, batches // getattr(optimizer, "batches_a_step", 1))


def nested(optimizer):
    """The optimizer, and those inside: of loss scaling, of wrappers, of several for one model."""
    yield optimizer
    for part in _inside(optimizer):
        yield from nested(part)


def momentum(optimizer):
    """What a built optimizer remembers of gradients, linearly: coarse values and zeros will do."""
    for part in nested(optimizer):
        for name, entries in _keras.slots_of(part).items():
            if _KINDS.get(name) == "gradients":
                yield from entries


def undecided(optimizer):
    """Whether it is of several that are only known when it is built."""
    return hasattr(optimizer, "optimizers") and not optimizer.built


def _inside(optimizer):
    inner = getattr(optimizer, "inner_optimizer", None)
    return [inner] if inner else getattr(optimizer, "optimizers", [])


def _carry(old, new, transfers):
    """`transfers` has one entry a variable: None where it has not changed."""
    carry_exclusions(old, new, _keras.trained_by(old), _keras.trained_by(new))
    slots, fresh_slots = _keras.slots_of(old), _keras.slots_of(new)
    for name, entries in slots.items():
        kind = _KINDS.get(name)
        # RMSprop's momentum is one of normalized steps.
        if isinstance(old, keras.optimizers.RMSprop) and name == "_momentums":
            kind = "weights"
        for i, (entry, fresh) in enumerate(zip(entries, fresh_slots[name], strict=True)):
            values = np.array(ops.convert_to_numpy(entry))  # JAX takes no buffer twice
            if transfers[i] is None:
                fresh.assign(values)
            elif kind:
                fresh.assign(np.tensordot(getattr(transfers[i], kind), values, axes=1))
    for number, fresh in zip(_numbers(old, slots), _numbers(new, fresh_slots), strict=True):
        fresh.assign(number)  # iterations, learning rate, loss scale


def _numbers(optimizer, slots):
    known = {id(v) for entries in slots.values() for v in entries}
    return [v for v in optimizer.variables if id(v) not in known and len(v.shape) == 0]
