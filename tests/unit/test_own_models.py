"""Networks of one's own: described by Keras' configuration, saved, loaded."""

import json
import shutil

import keras
import numpy as np
import pytest
from hub_cases import edit_card
from keras import layers
from own_model_cases import (
    FIELDS,
    NETWORKS,
    Scale,
    Unregistered,
    functional,
    logits,
    made_twice,
    recurrent,
    sequential,
    subclassed,
)
from recipe_cases import CLASSES, SHAPE, quietly

import keras_pde as kp
from keras_pde.models import from_config, to_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
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
        (Unregistered(), "'Unregistered' of 'own_model_cases'.*register_keras_serializable"),
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


def test_models_within_models_without_end_are_counted():
    one = keras.Sequential([keras.Input((3,)), layers.Dense(3)])
    config = to_config(one)
    for _ in range(300):
        outer = to_config(one)
        outer["config"]["layers"].append(config)
        config = outer
    with pytest.raises(ValueError, match=r"calls of layers|makes no network"):
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
        with pytest.raises(ValueError, match=r"'Scale' of 'own_model_cases'.*--import MODULE"):
            kp.load_model(tmp_path / "own")
    finally:
        keras.saving.get_custom_objects()["tests>Scale"] = found
    kp.load_model(tmp_path / "own")
