"""Models as operations in order, and rules for them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_pde as kp
from keras_pde import cost, graph


def nested(head="softmax"):
    """Two branches, a layer that is called twice, and a model within the model."""
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Activation(head)])
    shared = layers.Dense(4, activation="tanh")
    inputs = keras.Input((4,))
    x = shared(shared(inputs))
    return keras.Model(inputs, inner(x + 2.0 * inputs))


def test_calls_are_in_order():
    names = [type(call.operation).__name__ for call in graph.calls(nested())]
    assert names[:2] == ["Dense", "Dense"] and names[-2:] == ["Add", "Sequential"]
    assert "Multiply" in names and len(names) == 5
    known = {id(tensor) for tensor in nested().inputs}
    model = nested()
    known = {id(tensor) for tensor in model.inputs}
    for call in graph.calls(model):
        assert all(id(tensor) in known for tensor in call.inputs)
        known |= {id(tensor) for tensor in call.outputs}
    assert id(model.outputs[0]) in known


def test_run_reaches_the_operations_of_nested_models():
    model, x = nested("linear"), np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    seen = []
    outputs = graph.run(model, ops.convert_to_tensor(x), lambda operation: seen.append(operation))
    np.testing.assert_allclose(
        ops.convert_to_numpy(outputs), model.predict(x, verbose=0), rtol=1e-5
    )
    kinds = [type(operation).__name__ for operation in seen]
    assert kinds.count("Dense") == 3 and kinds.index("Sequential") < kinds.index("Activation")

    def without_activations(operation):
        return (lambda z: z) if isinstance(operation, layers.Activation) else None

    soft = nested("softmax")
    logits = graph.run(soft, ops.convert_to_tensor(x), without_activations)
    expected = np.log(soft.predict(x, verbose=0))
    found = ops.convert_to_numpy(ops.log_softmax(logits))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    "model", [Subclassed(), keras.Sequential([layers.Dense(2)]), layers.Dense(2)]
)
def test_what_is_no_graph_is_refused(model):
    for ask in (graph.calls, kp.models.multiply_adds, kp.models.features):
        with pytest.raises(ValueError, match="expected a Functional model"):
            ask(model)


CAST = layers.Activation("linear", dtype="float32")  # as guides on mixed precision end models


def functional(head):
    inputs = keras.Input((4,))
    return keras.Model(inputs, head(layers.Dense(3)(inputs)))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (lambda: functional(lambda z: z), "linear"),
        (lambda: functional(layers.Dense(2, activation="sigmoid")), "sigmoid"),
        (lambda: functional(layers.Activation("softmax")), "softmax"),
        (lambda: functional(layers.Softmax()), "softmax"),
        (lambda: functional(ops.softmax), "softmax"),
        (lambda: functional(ops.sigmoid), "sigmoid"),
        (lambda: functional(lambda z: CAST(layers.Softmax()(z))), "softmax"),
        (lambda: keras.Sequential([layers.Dense(2, "sigmoid"), CAST]), "sigmoid"),
        (lambda: functional(lambda z: 2 * z), None),
        (lambda: functional(layers.Dropout(0.5)), None),
        (nested, "softmax"),
        (lambda: keras.Sequential([layers.Dense(2), layers.Softmax()]), "softmax"),
        (lambda: keras.Sequential([]), None),
        (Subclassed, None),
    ],
)
def test_activations_at_the_end(model, expected):
    assert graph.activation(model()) == expected


def test_the_last_call_counts_not_the_last_layer():
    """Layers are listed in the order in which they are reached, which may end elsewhere."""
    inputs = keras.Input((4,))
    gate = layers.Dense(3, activation="sigmoid")(inputs)
    model = keras.Model(inputs, layers.Multiply()([gate, layers.Dense(3)(inputs)]))
    assert graph.activation(model) is None


def test_rules_hold_for_exact_types_or_as_they_say():
    class Own(layers.Dense):
        pass

    class Block(kp.layers.ContinuousBlock):
        pass

    assert graph.rule_of("cost", layers.Dense(2)) is cost.kernels
    assert graph.rule_of("cost", Own(2)) is None
    block = Block(layers.Dense(4), 1)
    assert graph.rule_of("cost", block) is graph.rule_of(
        "cost", kp.layers.ContinuousBlock(layers.Dense(4), 1)
    )
    graph.rule("cost", Own)(cost.free)
    assert graph.rule_of("cost", Own(2)) is cost.free
    assert kp.models.multiply_adds(functional(Own(5))) == 4 * 3
    with pytest.raises(ValueError, match="second 'cost' rule"):
        graph.rule("cost", Own)
        graph.rule("cost", Own)(cost.free)
    with pytest.raises(ValueError, match="Did you mean 'cost'"):
        graph.rule("costs", Own)
