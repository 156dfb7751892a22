"""Networks of one's own: described by Keras' configuration, saved, loaded, trained by recipes."""

import json
import shutil

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


def made_twice():
    """Layers that make their variables again when they come from a configuration."""
    inputs = keras.Input(SHAPE)
    x = layers.Bidirectional(layers.LSTM(24))(layers.Reshape((SHAPE[0], -1))(inputs))
    x = layers.Reshape((6, 8, 1))(layers.Dense(48)(x))
    x = layers.Conv2D(16, 3, padding="same")(x)
    x = kp.layers.ContinuousBlock(layers.Conv2D(16, 3, padding="same"), steps=2)(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(x)))


def half():
    dense = [layers.Dense(60, dtype=dtype) for dtype in ("float16", "bfloat16")]
    return sequential(layers.Flatten(), *dense, layers.Activation("linear", dtype="float32"))


def lora():
    model = sequential(layers.Flatten(), layers.Dense(60), layers.Dense(60))
    model.layers[1].enable_lora(4)
    return model


def compiled_within():
    inner = keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(5)])
    inner.compile("adam", "mse")
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, layers.Dense(CLASSES)(inner(inputs)))


NETWORKS = [
    sequential,
    functional,
    recurrent,
    subclassed,
    continuous,
    made_twice,
    half,
    lora,
    compiled_within,
]
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
    assert card.multiply_adds > 0 or make in (recurrent, subclassed, functional, made_twice)
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
        (layers.TimeDistributed(layers.GRU(2, unroll=True)), "a GRU of unroll=True"),
        (layers.Activation(quietly), "'quietly'.*register_keras_serializable"),
    ],
)
def test_what_a_configuration_cannot_say_is_refused(layer, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        kp.save_model(sequential(layer), tmp_path / "own", FIELDS)
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: keras.Sequential([layers.Dense(3)]), "expected a keras.Model that is built"),
        (lambda: kp.RobustModel(sequential(), kp.objectives.Plain()), "a RobustModel; expected"),
        (lambda: keras.Model(i := keras.Input(SHAPE), {"a": layers.Flatten()(i)}), "a dict; expec"),
        (lambda: (m := sequential()).layers[-1].quantize("int8") or m, "quantised layers"),
    ],
    ids=["not built", "RobustModel", "dict", "quantised"],
)
def test_models_that_cannot_be_saved_say_why(make, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        kp.save_model(make(), tmp_path / "own", FIELDS)
    assert not (tmp_path / "own").exists()


def part(name, module="keras.layers", **config):
    return {"module": module, "class_name": name, "config": config, "registered_name": None}


def function(name, module):
    value = {"class_name": "function", "module": module, "config": name, "registered_name": name}
    return part("Activation", activation=value)


FORGED = {
    "a module of Keras to import": function("relu", "keras_hub"),
    "a private module to import": function("relu", "keras.src.backend.numpy"),
    "no activation": function("deserialize", "builtins"),
    "a lambda under a registered name": {
        **part("__lambda__", value=["x"]),
        "registered_name": "keras_pde>ContinuousBlock",
    },
    "the base of vocabularies": part("IndexLookup", "keras.src.layers.preprocessing.index_lookup"),
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


def deep(model, times):
    for _ in range(times):
        inputs = keras.Input((3,))
        model = keras.Model(inputs, model(model(inputs)))
    return model


def test_calls_of_models_within_models_are_counted():
    inputs = keras.Input((3,))
    config = to_config(deep(keras.Model(inputs, layers.Dense(3)(inputs)), 3))
    for _ in range(12):  # each of which is called twice
        outer = to_config(deep(keras.Sequential([keras.Input((3,))]), 1))
        inner = next(x for x in outer["config"]["layers"] if x["class_name"] == "Sequential")
        inner |= {k: config[k] for k in ("module", "class_name", "config", "registered_name")}
        config = outer
    with pytest.raises(ValueError, match="calls of layers"):
        from_config(config)


@pytest.mark.parametrize("dtype", ["S1000000000", "object", 3])
def test_arrays_are_of_numbers(dtype):
    config = to_config(sequential(layers.Rescaling(2.0)))
    array = {"class_name": "__numpy__", "config": {"value": ["a"], "dtype": dtype}}
    config["config"]["layers"][1]["config"]["scale"] = array
    with pytest.raises(ValueError, match="expected numbers"):
        from_config(config)


@pytest.mark.parametrize(
    "middle",
    [
        lambda: [layers.UpSampling2D(4000), layers.GlobalMaxPooling2D()],
        lambda: [layers.UpSampling2D(300), *[layers.Rescaling(2.0) for _ in range(200)]],
    ],
    ids=["one", "many"],
)
def test_what_makes_too_many_numbers_is_not_run(middle, folder, tmp_path):
    """Of sizes that only the card's examples tell."""
    inputs = x = keras.Input((None, None, 1))
    for layer in (*middle(), layers.GlobalMaxPooling2D(keepdims=True)):
        x = layer(x) if len(x.shape) == 4 else x
    model = keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(layers.Reshape((1,))(x))))
    shutil.copytree(folder / "model", tmp_path / "own")
    edit_card(tmp_path / "own", arguments={"config": to_config(model)})
    with pytest.raises(ValueError, match="numbers of one example"):
        kp.load_model(tmp_path / "own")


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


def test_a_softmax_is_seen_wherever_it_is(folder):
    inputs = keras.Input(SHAPE)
    for head, logits in (("softmax", False), ("linear", True)):
        x = layers.Dense(CLASSES, head)(layers.Flatten()(inputs))
        keras.Model(inputs, layers.Reshape((CLASSES,))(x)).save(folder / "hidden.keras")
        recipe = short(folder, model={"from": str(folder / "hidden.keras")})
        loaded = recipes.build.dataset(recipe)[0]
        assert recipes.build.robust_model(recipe, loaded, 10).loss.from_logits == logits
    sequential(head="sigmoid").save(folder / "hidden.keras")
    with pytest.raises(ValueError, match="expected logits, or a softmax"):
        recipes.build.robust_model(recipe, loaded, 10)


def test_another_file_is_not_gone_on_from(folder, tmp_path):
    sequential().save(folder / "first.keras")
    recipe = short(folder, model={"from": str(folder / "first.keras")})
    recipes.train(recipe, tmp_path / "run", max_minutes=0, say=quietly)
    shutil.copy(folder / "first.keras", tmp_path / "kept.keras")
    sequential(layers.Activation("tanh")).save(folder / "first.keras")
    with pytest.raises(ValueError, match="started from a model with the SHA-256"):
        recipes.train(recipe, tmp_path / "run", resume=True, say=quietly)
    shutil.copy(tmp_path / "kept.keras", folder / "first.keras")
    recipes.train(recipe, tmp_path / "run", resume=True, say=quietly)


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
