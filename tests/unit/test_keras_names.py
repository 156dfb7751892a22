"""What is private in Keras: one file uses it, and each assumption that it makes still holds."""

import ast
import importlib
import inspect
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras_names_cases import X, model

import keras_pde as kp
from keras_pde import _keras

PACKAGE = Path(kp.__file__).parent
FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p.parent.name != "_keras"]


# Nobody else


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_other_file_uses_what_is_private_in_keras(path):
    """An underscored attribute is one that some file of this package defines."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not any(name.startswith("keras.src") for name in names)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            own = node.attr in OWN or node.attr.startswith("__") or ast.unparse(node) in ALLOWED
            assert own, f"line {node.lineno}: {ast.unparse(node)} belongs into _keras/"


ALLOWED = ("os._exit",)


def _defined(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for leaf in (leaf for target in targets for leaf in ast.walk(target)):
                if isinstance(leaf, ast.Attribute | ast.Name):
                    yield getattr(leaf, "attr", None) or leaf.id


OWN = {name for path in FILES for name in _defined(ast.parse(path.read_text()))}


def test_no_class_takes_over_what_is_private_in_keras():
    for path in FILES:
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        if name.endswith(("__main__", "tensorflow_hook", "tensorflow_twice", "jax_hook")):
            continue  # run, or are for one backend; RobustModel is below the hook of this one
        module = importlib.import_module(name)
        for kind in vars(module).values():
            if not inspect.isclass(kind) or kind.__module__ != name:
                continue
            theirs = {
                attribute
                for base in kind.__mro__
                if base.__module__.startswith("keras.") and base is not keras.layers.Layer.__base__
                for attribute in vars(base)
            }
            mine = {a for a in vars(kind) if a.startswith("_") and not a.startswith("__")}
            taken = mine & theirs - {"_abc_impl"}
            assert not taken, f"{kind.__name__} takes over {taken}: belongs into _keras/"


# Each assumption


def test_layers_of():
    found = [type(layer).__name__ for layer in _keras.layers_of(model())]
    assert found.count("Dense") == 2 and found.count("Dropout") == 1
    assert found[0] == "Functional" and "Sequential" in found


def test_takes_training():
    assert _keras.takes_training(model())

    class Subclassed(keras.Model):
        def call(self, x):
            return x

    assert not _keras.takes_training(Subclassed())


def test_stateless_call():
    """It is Keras' own, and sees what is assigned to trainable variables."""
    inputs = keras.Input((3,))
    x = layers.BatchNormalization()(layers.Dense(3, kernel_regularizer="l2")(inputs))
    one = keras.Model(inputs, x)
    values = ([v.value for v in one.trainable_variables],)
    values += ([v.value for v in one.non_trainable_variables],)
    *found, losses, assigned = _keras.stateless_call(
        one, *values, ops.convert_to_tensor(X), training=True
    )
    assert found.pop() == [1, 1] and assigned == {}, "each statistic is assigned once"
    found.append(losses)
    expected = one.stateless_call(*values, X, training=True, return_losses=True)
    for ours, theirs in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (ours, theirs)))
    assert losses

    normalized = keras.Sequential(
        [keras.Input((3,)), layers.SpectralNormalization(layers.Dense(3))]
    )
    values = [[v.value for v in normalized.trainable_variables]]
    values += [[v.value for v in normalized.non_trainable_variables]]
    assert list(_keras.stateless_call(normalized, *values, X, training=True)[-1]) == [0]


def test_create_state():
    one = model()
    one.compile("adam", "mse", metrics=["mae"])
    _keras.create_state(one, X, np.zeros((len(X), 3), "float32"))
    assert one.optimizer.built and {m.name for m in one.metrics} >= {"loss", "compile_metrics"}
    assert len(one.metrics[1].variables) == 2, "sum and count of the metric"


def test_graphs():
    one = model()
    graph = _keras.graph_of(one)
    assert graph is one
    inner = next(layer for layer in one.layers if isinstance(layer, keras.Sequential))
    assert type(_keras.graph_of(inner)).__name__ == "Functional"
    assert _keras.graph_of(type("Own", (keras.Sequential,), {})([layers.Dense(2)])) is None
    assert _keras.graph_of(keras.Sequential([layers.Dense(2)])) is None, "not built: no graph"
    called = []

    def operation_of(operation):
        called.append(operation)
        return operation

    outputs = _keras.run_graph(graph, ops.convert_to_tensor(X), operation_of)
    np.testing.assert_allclose(ops.convert_to_numpy(outputs), one.predict(X, verbose=0), rtol=1e-5)
    assert called[:2] == [one.layers[1]] * 2 and called[-1] is inner


def test_graph_that_runs():
    one = model()
    derived = type("Derived", (keras.Model,), {})(one.inputs, one.outputs)
    other = type("Other", (keras.Model,), {"call": lambda self, x: x})()
    assert _keras.graph_that_runs(one) is one and _keras.graph_that_runs(derived) is derived
    assert _keras.graph_that_runs(other) is None
    sequential = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
    assert _keras.graph_that_runs(sequential) is _keras.graph_of(sequential)
    assert _keras.graph_that_runs(keras.Sequential([layers.Dense(2)])) is None


def test_calls():
    one = model()
    shared, inner = one.layers[1:]
    keras.Model(one.inputs, shared(one.layers[0].output))  # another graph, with a call of its own
    assert _keras.producer(one.output) is inner
    (first, second, third) = _keras.calls_in(one)
    assert (first[0], second[0], third[0]) == (shared, shared, inner)
    assert second[1][0] is first[2][0] and third[2][0] is one.output


def test_replacing_variables():
    class Held(layers.Layer):
        def build(self, input_shape):
            self.a, self.b = (self.add_weight(shape=(2,), name=name) for name in "ab")

    layer = Held()
    layer.build((None, 3))
    with _keras.replacing_variables(layer, [layer.a]):
        layer.a = layer.add_weight(shape=(3,), name="a")
    assert sorted(w.shape[0] for w in layer.weights) == [2, 3]
    with pytest.raises(ValueError, match="cannot add"):
        layer.c = layer.add_weight(shape=(), name="c")


def test_part_named():
    """Keras writes names under which its own parts are found, and nothing else is."""
    parts = [layers.Dense(3), keras.Sequential(), keras.Model(*[keras.Input((3,))] * 2)]
    parts += [keras.initializers.HeNormal(), keras.regularizers.L2(), keras.constraints.NonNeg()]
    parts += [layers.Dense(3).dtype_policy, _keras.producer(ops.relu(keras.Input((3,))))]
    for part in parts:
        config = keras.saving.serialize_keras_object(part)
        assert _keras.part_named(config["module"], config["class_name"]) is type(part)
    for module, name in (("keras.utils", "get_file"), ("keras.utils", "Progbar"), ("os", "system")):
        assert _keras.part_named(module, name) is None


def test_set_weights():
    normalize = layers.Normalization()
    normalize.adapt(5 * X + np.eye(4, 3, dtype="float32"))
    one = keras.Sequential([keras.Input((3,)), normalize])
    other = keras.Sequential([keras.Input((3,)), layers.Normalization()])
    _keras.set_weights(other, one.get_weights())
    np.testing.assert_array_equal(*(ops.convert_to_numpy(m(X)) for m in (one, other)))


def test_without_values():
    with _keras.without_values():
        large = keras.Sequential([keras.Input((10**6,)), layers.Dense(10**6)])
    assert large.count_params() == 10**12 + 10**6
    keras.Sequential([keras.Input((2,)), layers.Dense(2)])(X[:, :2])  # others are made as ever
    with pytest.raises(_keras.TooLarge), _keras.without_values(most=10):
        keras.Sequential([keras.Input((2,)), *(layers.Dense(2) for _ in range(20))])


def test_weights_in_memory(tmp_path):
    one, other = (keras.Sequential([keras.Input((3,)), layers.Dense(2)]) for _ in range(2))
    file = _keras.weights_file(one)
    (tmp_path / "a.weights.h5").write_bytes(file.getvalue())
    other.load_weights(tmp_path / "a.weights.h5")
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    one.set_weights([w + 1 for w in one.get_weights()])
    _keras.read_weights(one, file)
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
