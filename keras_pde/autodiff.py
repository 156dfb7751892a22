"""Derivatives of plain functions of tensors, the same on TensorFlow, JAX and torch.

Every function here can be differentiated again, by itself or by a training step around it
(double backpropagation). On TensorFlow nothing but `x` is watched, so that an input gradient does
not pay for the gradients of the weights.

`x` may be one tensor or any nesting of tensors; values must be scalars where that is said.
"""

import keras
from keras import ops, tree

_BACKEND = keras.backend.backend()


def value_and_grad(fn, x, has_aux=False):
    """Value of a scalar function and its gradient.

    Args:
        fn: function of one argument that returns a scalar, or `(scalar, aux)` with `has_aux`.
        x: tensor or nesting of tensors, the point.
        has_aux: whether `fn` also returns something that is carried along, not differentiated.

    Returns:
        `(value, gradient)`, or `((value, aux), gradient)` with `has_aux`. Entries that the value
        does not depend on have gradient zero.
    """
    with_aux = fn if has_aux else lambda z: (fn(z), None)
    value, aux, gradient = _value_and_grad(with_aux, x)
    return ((value, aux) if has_aux else value), gradient


def vjp(fn, x, vector):
    """Value of `fn` at `x`, and the vector-Jacobian product J(x)^T v.

    Args:
        fn: function from tensors to one tensor.
        x: tensor or nesting of tensors.
        vector: tensor of the shape of `fn(x)`.

    Returns:
        `(value, J^T v)`; the second has the structure of `x`.
    """

    def paired(z):
        value = fn(z)
        return ops.sum(ops.multiply(value, vector)), value

    vector = ops.convert_to_tensor(vector)
    (_, value), product = value_and_grad(paired, x, has_aux=True)
    return value, product


def jvp(fn, x, vector):
    """Value of `fn` at `x`, and the Jacobian-vector product J(x) v.

    On TensorFlow and torch this is the derivative of `u -> J^T u` (which is linear in u), so it
    works wherever second derivatives do, loops included; on JAX it is forward mode.

    Args:
        fn: function from tensors to one tensor.
        x: tensor or nesting of tensors.
        vector: tensor or nesting with the structure of `x`.

    Returns:
        `(value, J v)`; the second has the shape of `fn(x)`.
    """
    if _BACKEND == "jax":
        import jax

        return jax.jvp(fn, (x,), (vector,))

    def transposed(u):
        value, product = vjp(fn, x, u)
        return _inner(product, vector), value

    # J^T u is linear in u, so any u will do; its shape has to be known first.
    (_, value), product = value_and_grad(transposed, ops.zeros_like(fn(x)), has_aux=True)
    return value, product


def jacobian(fn, x):
    """Value of a function that acts on each example of a batch, and its Jacobian matrices.

    One pass forward, and one backward for each output.

    Args:
        fn: function from a tensor `(batch, ...)` to one `(batch, outputs)`, each row of the latter
            a function of that example alone.
        x: tensor, the point.

    Returns:
        `(value, J)`, J of shape `(batch, outputs, ...)`: `J[i, k]` is the gradient of `value[i, k]`
        in `x[i]`.
    """
    value, pull = _pullback(fn, ops.convert_to_tensor(x))
    outputs = value.shape[-1]

    def row(k):
        chosen = ops.one_hot(k, outputs, dtype=value.dtype)
        return pull(ops.broadcast_to(chosen, ops.shape(value)))

    return value, ops.moveaxis(ops.map(row, ops.arange(outputs)), 0, 1)


def hvp(fn, x, vector):
    """Gradient of a scalar function and the Hessian-vector product H(x) v.

    Args:
        fn: function from tensors to a scalar.
        x: tensor or nesting of tensors.
        vector: tensor or nesting with the structure of `x`.

    Returns:
        `(gradient, H v)`, both with the structure of `x`.
    """

    def slope(z):
        gradient = value_and_grad(fn, z)[1]
        return _inner(gradient, vector), gradient

    (_, gradient), product = value_and_grad(slope, x, has_aux=True)
    return gradient, product


def _inner(a, b):
    return sum(
        ops.sum(ops.multiply(p, q)) for p, q in zip(tree.flatten(a), tree.flatten(b), strict=True)
    )


if _BACKEND == "tensorflow":
    import tensorflow as tf

    from keras_pde.tensorflow_twice import exact

    def _value_and_grad(fn, x):
        x = tree.map_structure(tf.convert_to_tensor, x)
        with tf.GradientTape(watch_accessed_variables=False) as tape, exact():
            tape.watch(x)
            value, aux = fn(x)
        gradient = tape.gradient(value, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return value, aux, gradient

    def _pullback(fn, x):
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape, exact():
            tape.watch(x)
            value = fn(x)
        zero = tf.UnconnectedGradients.ZERO
        return value, lambda v: tape.gradient(value, x, v, unconnected_gradients=zero)

elif _BACKEND == "jax":
    import jax

    def _pullback(fn, x):
        value, pull = jax.vjp(fn, x)
        return value, lambda v: pull(v)[0]

    def _value_and_grad(fn, x):
        (value, aux), gradient = jax.value_and_grad(fn, has_aux=True)(x)
        return value, aux, gradient

elif _BACKEND == "torch":
    import torch

    def _value_and_grad(fn, x):
        # The graph of the gradient is kept only where the caller records one.
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            x = tree.map_structure(_recorded, x)
            value, aux = fn(x)
            leaves = tree.flatten(x)
            if value.requires_grad:
                parts = torch.autograd.grad(
                    value, leaves, create_graph=again, allow_unused=True, materialize_grads=True
                )
            else:  # a constant
                parts = [torch.zeros_like(leaf) for leaf in leaves]
        gradient = tree.pack_sequence_as(x, list(parts))
        if not again:
            value, aux = tree.map_structure(
                lambda t: t.detach() if isinstance(t, torch.Tensor) else t, (value, aux)
            )
        return value, aux, gradient

    def _pullback(fn, x):
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            x = _recorded(x)
            value = fn(x)

        def pull(v):
            if not value.requires_grad:  # a constant
                return torch.zeros_like(x)
            options = {"create_graph": again, "retain_graph": True, "materialize_grads": True}
            return torch.autograd.grad(value, [x], v, allow_unused=True, **options)[0]

        return value if again else value.detach(), pull

    def _recorded(tensor):
        tensor = ops.convert_to_tensor(tensor)
        return tensor if tensor.requires_grad else tensor.detach().requires_grad_(True)

else:
    raise ImportError(
        f"Received the Keras backend {_BACKEND!r}; keras_pde needs one that differentiates: "
        "set KERAS_BACKEND to 'tensorflow', 'jax' or 'torch'."
    )
