"""What attacks maximise: per-example losses of logits.

Margin and DLR are positive when the class is wrong. `labels` are the true classes, or with
`targeted=True` the classes to reach.
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


def cross_entropy(logits, labels):
    """-log softmax(z)_y."""
    return ops.logsumexp(logits, axis=-1) - _entry(logits, labels)


def margin(logits, labels):
    """max_{i != y} z_i - z_y (Carlini and Wagner, 2017)."""
    return _best_other(logits, labels) - _entry(logits, labels)


def dlr(logits, labels):
    """Difference of logits ratio, margin / (z_(1) - z_(3)) (Croce and Hein, 2020).

    Invariant to shifts and scales of the logits. With two classes there is no third logit: then
    it is the margin.
    """
    if logits.shape[-1] < 3:
        return margin(logits, labels)
    ordered = ops.top_k(logits, 3)[0]
    return margin(logits, labels) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


_LOSSES = {"ce": cross_entropy, "dlr": dlr, "margin": margin}


def names() -> list[str]:
    """The names of all losses."""
    return list(_LOSSES)


def get(name, targeted=False):
    """The loss of that name, `(logits, labels) -> (batch,)`, to be maximised.

    Towards a target class each loss is the negative one of that class: to reach class t is to
    minimise the loss of the label t. (DLR's denominator is then that of the untargeted form.)
    """
    if name not in _LOSSES:
        raise unknown_name("attack loss", name, _LOSSES)
    loss = _LOSSES[name]
    return (lambda logits, labels: -loss(logits, labels)) if targeted else loss
