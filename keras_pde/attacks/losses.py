"""What attacks maximise: per-example losses of logits.

Each is a function of `(logits, labels, targets)`. Without targets (`None`) it grows as the true
class `labels` loses; margin and DLR are positive when that class is wrong. With targets it grows
as the class `targets` wins.
"""

from keras import ops

from keras_pde.registry import unknown_name


def _entry(logits, labels):
    """The logit of the class named by the label."""
    chosen = ops.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return ops.sum(chosen * logits, axis=-1)


def _best_other(logits, labels):
    """The largest logit of another class."""
    chosen = ops.one_hot(labels, logits.shape[-1], dtype="bool")
    return ops.max(ops.where(chosen, -float("inf") * ops.ones_like(logits), logits), axis=-1)


def cross_entropy(logits, labels, targets=None):
    """-log softmax(z)_y, or log softmax(z)_t."""
    if targets is not None:
        return -cross_entropy(logits, targets)
    return ops.logsumexp(logits, axis=-1) - _entry(logits, labels)


def margin(logits, labels, targets=None):
    """max_{i != y} z_i - z_y, or z_t - max_{i != t} z_i (Carlini and Wagner, 2017)."""
    if targets is not None:
        return -margin(logits, targets)
    return _best_other(logits, labels) - _entry(logits, labels)


def dlr(logits, labels, targets=None):
    """Difference of logits ratio, margin / (z_(1) - z_(3)) (Croce and Hein, 2020).

    Invariant to shifts and scales of the logits. With two classes there is no third logit: then
    it is the margin. Towards a target the denominator is that of the untargeted form.
    """
    if logits.shape[-1] < 3:
        return margin(logits, labels, targets)
    ordered = ops.top_k(logits, 3)[0]
    return margin(logits, labels, targets) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


_LOSSES = {"ce": cross_entropy, "dlr": dlr, "margin": margin}


def names() -> list[str]:
    """The names of all losses."""
    return list(_LOSSES)


def get(name):
    """The loss of that name, `(logits, labels, targets=None) -> (batch,)`, to be maximised."""
    if name not in _LOSSES:
        raise unknown_name("attack loss", name, _LOSSES)
    return _LOSSES[name]
