"""Saved models: what is saved comes back, and what cannot be saved."""

import os

import h5py
import keras
import numpy as np
import pytest
from hub_cases import (
    FILES,
    SHAPE,
    WEIGHTS,
    contents,
    make_row,
    mlp,
    refused,
)

from keras_pde.hub import Card, Measurement, load_card, load_model, save_model

pytestmark = pytest.mark.usefixtures("row")


def logits(model):
    x = np.random.default_rng(5).random((7, *SHAPE), dtype="float32")
    return keras.ops.convert_to_numpy(model(x))


# What is saved comes back


def test_round_trip(saved, model, fields):
    loaded = load_model(saved)
    np.testing.assert_array_equal(logits(loaded), logits(model))
    assert sorted(contents(saved)) == FILES and os.listdir(saved.parent) == ["tiny"]
    card = load_card(saved)
    assert card.parameters == model.count_params()
    assert card.classes == ("cat", "dog", "bœuf") and card.input_shape == SHAPE
    assert card.measurements == (Measurement(**make_row()),)
    assert card.provenance == {"seed": 3, "minutes": 0.5}
    assert card.multiply_adds == 16 * 6 + 2 * 6 * 6 + 6 * 3
    assert card.sizes == {name: (saved / name).stat().st_size for name in FILES[1:]}
    assert card.keras_version == keras.__version__
    assert Card.from_json(card.to_json()) == card


def test_card_can_be_saved_again(saved, model):
    card = save_model(model, saved, load_card(saved), overwrite=True)
    assert card == load_card(saved)
    assert os.listdir(saved.parent) == ["tiny"]


def test_optimizer_is_not_saved(tmp_path, model, fields):
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    save_model(model, tmp_path / "new" / "deep", fields)
    load_model(tmp_path / "new" / "deep")
    with h5py.File(tmp_path / "new" / "deep" / WEIGHTS) as file:
        assert set(file) == {"layers", "vars"}


# How weights are stored


def test_half_precision_halves_the_file(tmp_path, model, fields):
    width = 200
    model = mlp(width)
    fields = fields | {"arguments": {"width": width}}
    full = save_model(model, tmp_path / "full", fields)
    half = save_model(model, tmp_path / "half", fields, weights="float16")
    assert half.weights == "float16"
    assert half.sizes[WEIGHTS] < 0.6 * full.sizes[WEIGHTS]
    loaded = load_model(tmp_path / "half")
    for stored, given in zip(loaded.get_weights(), model.get_weights(), strict=True):
        assert stored.dtype == given.dtype == "float32"
        np.testing.assert_array_equal(stored, given.astype("float16"))
    assert 0 < np.max(np.abs(logits(loaded) - logits(model))) < 1e-2
    # Saved once more, nothing is lost.
    again = save_model(loaded, tmp_path / "again", load_card(tmp_path / "half"), weights="float16")
    assert again.digests["golden.npz"] == half.digests["golden.npz"]


@pytest.mark.parametrize(
    ("change", "match"),
    [(lambda w: w + 1e5, "cannot hold"), (lambda w: w * 1e-7, "logits change by .* in float16")],
)
def test_weights_that_half_precision_ruins(tmp_path, model, fields, change, match):
    layer = model.layers[-1]
    layer.set_weights([change(w) for w in layer.get_weights()])
    with pytest.raises(ValueError, match=match):
        save_model(model, tmp_path / "tiny", fields, weights="float16")
    assert os.listdir(tmp_path) == []


def test_card_without_weights(tmp_path, model, fields):
    saved = tmp_path / "tiny"
    card = save_model(model, saved, fields, weights="none")
    assert os.listdir(saved) == ["card.json"] and card == load_card(saved)
    assert card.parameters == model.count_params() and card.digests == card.sizes == {}
    refused(saved, "comes without weights.*keras-pde train")
    with pytest.raises(ValueError, match="does not rebuild"):
        save_model(mlp(5), saved, fields, weights="none", overwrite=True)
    with pytest.raises(ValueError, match="Did you mean 'float16'"):
        save_model(model, saved, fields, weights="float15", overwrite=True)
    save_model(model, saved, fields, overwrite=True)
    load_model(saved)


# What cannot be saved


@pytest.mark.parametrize("arguments", [{"width": 5}, {"activation": "relu"}])
def test_model_that_its_card_does_not_rebuild(tmp_path, model, fields, arguments):
    with pytest.raises(ValueError, match="does not rebuild"):
        save_model(model, tmp_path / "tiny", fields | {"arguments": arguments})
    assert os.listdir(tmp_path) == []


def test_model_must_give_finite_logits_of_the_classes(tmp_path, model, fields):
    with pytest.raises(ValueError, match=r"expected finite logits \(4, 2\)"):
        save_model(model, tmp_path / "tiny", fields | {"classes": ["a", "b"]})
    model.set_weights([w * np.nan for w in model.get_weights()])
    with pytest.raises(ValueError, match="all finite: False"):
        save_model(model, tmp_path / "tiny", fields)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"architecture": "hub_test_mpl"}, "Did you mean 'hub_test_mlp'"),
        ({"arguments": {"depth": 3}}, "depth"),
        ({"arguments": {"width": object()}}, "JSON cannot hold"),
        ({"provenance": {"accuracy": float("nan")}}, "JSON cannot hold"),
        ({"name": "../secrets"}, "between slashes"),
        ({"name": "/etc"}, "between slashes"),
        ({"data_tier": "some"}, "synthetic"),
        ({"measurements": [0.5]}, "expected tuple.keras_pde"),
        ({"measurements": [make_row(norm="l3")]}, "one of .'l1'"),
        ({"measurements": [make_row(norms="l1")]}, "Did you mean 'norm'"),
        ({"measurements": [make_row(epsilon="8/255")]}, "expected float"),
        ({"measurements": [make_row(epsilon=0)]}, "positive length"),
        ({"measurements": [make_row(images=0)]}, "one image"),
        ({"measurements": [make_row(clean_accuracy=90.0)]}, "a share"),
        ({"measurements": [make_row(robust_accuracy=0.95)]}, "around 0.95"),
        ({"measurements": [make_row(robust_interval=[0.4])]}, "expected tuple.float, float"),
        ({"measurements": [make_row(clean_accuracy=0.4, clean_interval=[0, 1])]}, "at most the"),
        ({"measurements": [make_row(median_distance=-1.0)]}, "a length"),
        ({"measurements": [make_row(attacks=[])]}, "label and config"),
        ({"measurements": [make_row(digest="none")]}, "SHA-256"),
        ({"measurements": [make_row(certified_accuracy="1")]}, "expected float"),
        ({"license": "MIT"}, "Did you mean 'licence'"),
        ({"parameters": 7}, "unknown field"),
        ({"title": 7}, "title=7; expected str"),
        ({"classes": [0, 1, 2]}, "expected tuple.str"),
        ({"input_shape": (True, 4, 1)}, "expected tuple.int"),
        ({"input_shape": (None, 4, 1)}, "expected tuple.int"),
        ({"input_shape": (0, 4, 1)}, "positive"),
        ({"bounds": (0, 255)}, "normalisation inside"),
        ({"layout": "NCHW"}, "NHWC"),
    ],
)
def test_wrong_field(tmp_path, model, fields, change, match):
    with pytest.raises(ValueError, match=match):
        save_model(model, tmp_path / "tiny", fields | change)
    assert os.listdir(tmp_path) == []


def test_not_a_model(tmp_path, fields):
    with pytest.raises(ValueError, match="type str; expected a keras"):
        save_model("mlp", tmp_path / "tiny", fields)


def test_missing_field(tmp_path, model, fields):
    del fields["licence"]
    with pytest.raises(ValueError, match=r"without \['licence'\]"):
        save_model(model, tmp_path / "tiny", fields)
