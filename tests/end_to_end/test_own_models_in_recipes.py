"""Recipes that start from a `.keras` file, or from a saved network of one's own."""

import shutil

import keras
import numpy as np
import pytest
from keras import layers
from own_model_cases import (
    FIELDS,
    Scale,
    sequential,
)
from recipe_cases import CLASSES, SHAPE, quietly, short

import keras_pde as kp
from keras_pde import recipes


@pytest.fixture(scope="module", autouse=True)
def saved(folder):
    kp.save_model(sequential(), folder / "model", FIELDS)


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
