import keras

from keras_pde import cost, graph


def multiply_adds(model: keras.Model) -> int:
    """Multiply-add operations of the forward pass of one example, the usual measure of its cost.

    Convolutions of all kinds and dense layers are counted, in nested models too, and a layer that
    is called twice is counted twice; the rate of a continuous block at each stage of each step. A
    kernel costs its number of weights at each position of the output; of the input, if transposed.
    Multiplications by zeros of the padding are included; biases, normalisation, activations,
    pooling and other elementwise work are not.

    Args:
        model: a Functional or Sequential model of inputs with known sizes.

    Returns:
        The number of multiply-adds.

    Raises:
        ValueError: the model is no graph of layers, an input has an unknown size, or the cost of a
            layer is not known: one with weights of another type, or a product of two activations.
            `keras_pde.graph.rule` registers the cost of a layer of one's own.

    Example:

    >>> keras_pde.models.multiply_adds(keras_pde.models.small_cnn())
    5111680
    """
    tensors = graph.checked(model).inputs
    shapes = [tuple(tensor.shape[1:]) for tensor in tensors]
    if any(None in shape for shape in shapes):
        raise ValueError(
            f"Received a model with inputs of shape {shapes}; expected known sizes. Build it with "
            "an `input_shape` without None."
        )
    one = [
        keras.KerasTensor((1, *shape), dtype=tensor.dtype)
        for shape, tensor in zip(shapes, tensors, strict=True)
    ]
    return cost.of(model, one)
