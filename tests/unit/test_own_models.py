"""Networks of one's own: described by Keras' configuration, saved, loaded, trained by recipes."""

import json

import keras
import numpy as np
import pytest
from hub_cases import edit_card
from keras import layers, ops
from recipe_cases import CLASSES, SHAPE, quietly, short, write_data

import keras_pde as kp
from keras_pde import recipes
from keras_pde.models import from_config, to_config


@keras.saving.register_keras_serializable("tests")
class Scale(layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        return self.factor * x


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.flatten, self.dense = layers.Flatten(), layers.Dense(CLASSES)

    def call(self, x):
        return self.dense(self.flatten(x))

    def build(self, shape):
        self.flatten.build(shape)
        self.dense.build((None, int(np.prod(shape[1:]))))


@keras.saving.register_keras_serializable("tests")
def twice(x):
    return 2 * x


class Unregistered(layers.Layer):
    def call(self, x):
        return x


def sequential(*middle, head="linear"):
    inputs = keras.Input(SHAPE)
    return keras.Sequential([inputs, *middle, layers.Flatten(), layers.Dense(CLASSES, head)])


def functional():
    """Operations, numbers as arguments, a shared layer, functions, seeds, a nested model."""
    inputs = keras.Input(SHAPE)
    he = keras.initializers.HeNormal(seed=2**31 - 1)
    normalize = layers.Normalization()
    normalize.adapt(np.random.default_rng(0).normal(3, 2, (50, *SHAPE)))
    x = layers.Conv2D(3, 3, padding="same", kernel_initializer=he, kernel_regularizer="l2")(inputs)
    shared = layers.Conv2D(3, 3, padding="same", activation=twice)
    x = layers.BatchNormalization()(ops.relu(shared(shared(x)) - 0.5))
    nested = keras.Sequential([keras.Input((*SHAPE[:2], 3)), layers.Conv2D(1, 1), Scale()])
    x = layers.Dropout(0.5, seed=5)(normalize(nested(x)))
    return keras.Model(inputs, layers.Dense(CLASSES)(ops.mean(x, axis=(1, 3))))


def recurrent():
    inputs = keras.Input(SHAPE)
    x = layers.Bidirectional(layers.GRU(4))(layers.Reshape((SHAPE[0], -1))(inputs))
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, *SHAPE), "float32"))
    return model


def continuous():
    rate = layers.Conv2D(3, 3, padding="same", activation="tanh")
    return sequential(layers.Conv2D(3, 3), kp.layers.ContinuousBlock(rate, steps=2))


NETWORKS = [sequential, functional, recurrent, subclassed, continuous]
FIELDS = {
    "title": "Own",
    "dataset": "none",
    "input_shape": SHAPE,
    "classes": [str(i) for i in range(CLASSES)],
    "licence": "MIT",
}


def logits(model):
    x = np.random.default_rng(1).random((5, *SHAPE), "float32")
    return ops.convert_to_numpy(model(x, training=False))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    write_data(folder)
    kp.save_model(sequential(), folder / "model", FIELDS)
    return folder


@pytest.mark.parametrize("make", NETWORKS)
def test_a_saved_network_comes_back(make, tmp_path):
    model = make()
    for v in model.trainable_variables:
        v.assign(v + 0.1)
    card = kp.save_model(model, tmp_path / "own", FIELDS)
    assert card.architecture == "from_config"
    assert card.multiply_adds > 0 or make in (recurrent, subclassed, functional)
    np.testing.assert_allclose(logits(kp.load_model(tmp_path / "own")), logits(model), rtol=1e-5)


def test_a_configuration_is_left_as_it_is():
    config = to_config(functional())
    before = json.dumps(config)
    assert to_config(from_config(config))["config"].keys() == config["config"].keys()
    assert json.dumps(config) == before


@pytest.mark.parametrize(
    "layer, match",
    [
        (layers.Lambda(lambda x: x), "a Lambda, which can name code"),
        (Unregistered(), "'Unregistered' of 'test_own_models'.*register_keras_serializable"),
        (layers.TimeDistributed(Unregistered()), "'Unregistered'"),
        (layers.Activation(lambda x: x), "makes no network"),
        (layers.Activation(quietly), "'quietly'.*register_keras_serializable"),
    ],
)
def test_what_a_configuration_cannot_say_is_refused(layer, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        kp.save_model(sequential(layer), tmp_path / "own", FIELDS)
    assert not (tmp_path / "own").exists()


def part(name, module="keras.layers", **config):
    return {"module": module, "class_name": name, "config": config, "registered_name": None}


FORGED = {
    "a module": part("system", "os"),
    "code in Keras": part("get_file", "keras.utils"),
    "a class of Keras that is no part": part("Progbar", "keras.utils", target=3),
    "a function": {**part("function", "keras.utils"), "config": "get_file"},
    "a function of os": {**part("function", "os"), "config": "system"},
    "a lambda": {
        **part("Dense", units=3),
        "config": {"activation": part("__lambda__", "builtins")},
    },
    "a Lambda": part("Lambda", function="x"),
    "a Lambda by its private name": part("Lambda", "keras.src.layers.core.lambda_layer"),
    "a model from a file": part("TFSMLayer", filepath="x"),
    "a vocabulary from a file": part("StringLookup", vocabulary="/etc/passwd"),
    "torch": part("TorchModuleWrapper", module="x"),
    "an older kind": {"class_name": "Lambda", "config": {"function": "x"}},
    "an older kind within": part("TimeDistributed", layer={"class_name": "Dense", "config": {}}),
    "names that are none": part(["Dense"]),
    "a module that is none": part("Dense", ["keras"]),
    "a type": {**part("x"), "class_name": "__typespec__"},
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_configuration_names_no_code(name):
    config = to_config(sequential())
    config["config"]["layers"][1] = FORGED[name]
    with pytest.raises(ValueError, match=r"no part of networks|can name code"):
        from_config(config)


@pytest.mark.parametrize(
    "config",
    [{}, {"a": 1}, part("Dense", units=3), part("Sequential", "keras"), part("Functional")],
)
def test_what_is_no_model_is_refused(config):
    with pytest.raises(ValueError, match="Received"):
        from_config(config)


def test_operations_of_any_size_are_refused():
    config = to_config(sequential(layers.ZeroPadding2D(3)))
    config["config"]["layers"][1]["config"]["padding"] = [[2**20, 2**20], [2**20, 2**20]]
    config["config"]["layers"][3]["build_config"] = None
    with pytest.raises(ValueError, match=r"numbers an example|makes no network"):
        from_config(config)


@pytest.mark.parametrize("units, match", [(10**7, "at most 1048576"), (10**6, "more than")])
def test_a_forged_card_builds_no_more_than_it_says(folder, tmp_path, units, match):
    kp.save_model(sequential(layers.Dense(7)), tmp_path / "own", FIELDS)
    card = json.loads((tmp_path / "own" / "card.json").read_text())
    config = card["arguments"]["config"]
    config["config"]["layers"][1]["config"]["units"] = units
    edit_card(tmp_path / "own", arguments={"config": config})
    with pytest.raises(ValueError, match=match):
        kp.load_model(tmp_path / "own")


def test_a_class_that_is_not_imported_is_named(tmp_path):
    kp.save_model(sequential(Scale()), tmp_path / "own", FIELDS)
    found = keras.saving.get_custom_objects().pop("tests>Scale")
    try:
        with pytest.raises(ValueError, match=r"'Scale' of 'test_own_models'.*--import MODULE"):
            kp.load_model(tmp_path / "own")
    finally:
        keras.saving.get_custom_objects()["tests>Scale"] = found
    kp.load_model(tmp_path / "own")


# Recipes


@pytest.mark.parametrize("head", ["linear", "softmax"])
def test_a_recipe_starts_from_a_keras_file(folder, tmp_path, head):
    model = sequential(Scale(), head=head)
    model.save(folder / "own.keras")
    recipe = short(folder, model={"from": "own.keras"}, **{"training.epochs": 1})
    recipe._in(folder)
    run = recipes.train(recipe, tmp_path / "run", say=quietly)
    trained = kp.load_model(run / "model")
    assert [type(layer).__name__ for layer in trained.layers] == ["Scale", "Flatten", "Dense"]
    assert kp.hub.load_card(run / "model").architecture == "from_config"
    change = np.abs(trained.get_weights()[1] - model.get_weights()[1]).max()
    assert 0 < change < 0.5  # trained, and from there
    again = short(folder, model={"from": str(run / "model")}, **{"training.epochs": 1})
    recipes.train(again, tmp_path / "again", say=quietly)
    assert (tmp_path / "again" / "model" / "card.json").exists()


@pytest.mark.parametrize(
    "file, changes, match",
    [
        ("none.keras", {}, "which is no file"),
        ("model", {"training.precision": "mixed_bfloat16"}, "expected float32"),
        ("other.keras", {}, "a model with outputs of shape"),
        ("lambda.keras", {}, "Lambda"),
    ],
)
def test_a_recipe_refuses_before_it_trains(folder, tmp_path, file, changes, match):
    inputs = keras.Input(SHAPE)
    other = keras.Model(inputs, layers.Dense(CLASSES + 1)(layers.Flatten()(inputs)))
    other.save(folder / "other.keras")
    flat = layers.Flatten()(layers.Lambda(lambda x: x)(inputs))
    keras.Model(inputs, layers.Dense(CLASSES)(flat)).save(folder / "lambda.keras")
    recipe = short(folder, model={"from": str(folder / file)}, **changes)
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        recipes.train(recipe, tmp_path / "run", say=quietly)
    assert not (tmp_path / "run").exists()
