"""What is published: the list in the package, the folders and the boards say the same."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_pde as kp
from keras_pde import data, hub, recipes
from keras_pde.hub import board, download, index
from keras_pde.hub.listing import Listing
from keras_pde.hub.publishing import MODEL_LIMIT, TOTAL_LIMIT
from keras_pde.recipes import build

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "zoo" / "recipes"
SAVED = ROOT / "saved_models"
LISTED = index.read_index(index.PACKAGE_INDEX)
CARDS = {name: hub.load_card(SAVED / name) for name in LISTED if SAVED.is_dir()}

in_a_clone = pytest.mark.skipif(
    not (ROOT / "zoo" / "README.md").exists(), reason="the folders are not installed"
)


def test_readme_shows_the_list():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert board.with_table(text, list(CARDS.values())) == text


@in_a_clone
def test_board_shows_the_list():
    assert (ROOT / "zoo" / "README.md").read_text("utf-8") == board.page(list(CARDS.values()))


@in_a_clone
def test_folders_hold_the_models_of_the_list(tmp_path, monkeypatch):
    monkeypatch.setenv(download.MIRRORS, str(SAVED))
    monkeypatch.setenv(download.CACHE, str(tmp_path))
    names = {path.parent.relative_to(SAVED).as_posix() for path in SAVED.rglob("card.json")}
    assert names == set(LISTED)
    for name, listed in LISTED.items():
        assert listed == Listing.of((SAVED / name / "card.json").read_bytes())
        assert hub.load_card(name) == CARDS[name]


def test_list_is_written_as_publish_writes_it():
    assert index.PACKAGE_INDEX.read_text(encoding="utf-8") == index.index_text(LISTED)
    assert index.PACKAGE_INDEX.stat().st_size < 2000 * len(LISTED), "a line or two a model"


def test_weights_fit_into_the_repository():
    sizes = [card.sizes.get("model.weights.h5", 0) for card in CARDS.values()]
    assert max(sizes, default=0) <= MODEL_LIMIT and sum(sizes) <= TOTAL_LIMIT


@pytest.mark.parametrize("name", CARDS)
def test_recipes_are_still_understood(name):
    assert recipes.Recipe.of(CARDS[name].recipe).name == name


@pytest.mark.parametrize("name", [n for n, card in CARDS.items() if card.weights != "none"])
def test_models_load(name, tmp_path, monkeypatch):
    # Where the package is installed, its clone is a mirror.
    monkeypatch.setenv(download.MIRRORS, str(SAVED))
    monkeypatch.setenv(download.CACHE, str(tmp_path))
    card = CARDS[name]
    model = kp.load_model(name)
    assert {w.dtype for w in model.get_weights()} == {np.dtype("float32")}
    with np.load(SAVED / name / "golden.npz") as golden:
        logits = keras.ops.convert_to_numpy(model(golden["inputs"]))
        largest = np.abs(golden["logits"]).max()
        np.testing.assert_allclose(logits, golden["logits"], rtol=0, atol=1e-4 * largest)
    assert logits.shape[1] == len(card.classes)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda p: p.stem)
def test_recipes_of_the_zoo(path):
    read = recipes.load(path)
    build.check(read.replaced({"training.backend": ""}))
    name = read.data.name
    assert name in data.NAMES
    assert re.fullmatch(rf"{name}/[a-z0-9.-]+/[a-z0-9_.-]+", read.name), read.name
    assert path.stem.startswith(f"{name}-")
    assert read.title
    assert read.evaluation


def test_published_names_are_unique():
    names = [recipes.load(path).name for path in RECIPES.glob("*.toml")]
    assert len(names) == len(set(names))
