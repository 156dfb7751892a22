"""Folders of images and tables of pixels; what data are, whatever they are called."""

import csv

import numpy as np
import pytest
from PIL import Image

from keras_pde import cli, data

RNG = np.random.default_rng(0)


def pictures(count=6, shape=(5, 4, 3)):
    return RNG.integers(0, 256, (count, *shape), "uint8")


def write(folder, images, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image.squeeze()).save(folder / f"{number:02d}{suffix}")


def test_folders_of_train_and_test(tmp_path):
    parts = {(p, c): pictures(3) for p in ("train", "test") for c in ("cat", "dog")}
    for (part, word), images in parts.items():
        write(tmp_path / part / word, images)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    found = data.load(tmp_path)
    assert found.class_names == ("cat", "dog") and found.name == tmp_path.name
    for part in ("train", "test"):
        x, y = getattr(found, f"x_{part}"), getattr(found, f"y_{part}")
        assert y.tolist() == [0, 0, 0, 1, 1, 1]
        expected = np.concatenate([parts[part, "cat"], parts[part, "dog"]]) / np.float32(255)
        np.testing.assert_array_equal(x, expected)


def test_a_folder_called_like_a_published_set_is_another_set(tmp_path, monkeypatch):
    write(tmp_path / "mnist" / "cat", pictures(6))
    write(tmp_path / "mnist" / "dog", pictures(6))
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning):  # the test part is made
        assert data.load("mnist/").name == data.load(tmp_path / "mnist").name == "mnist/"


def test_folders_of_classes_alone_and_gray_images(tmp_path):
    gray = pictures(6, (5, 4, 1))
    write(tmp_path / "a", gray)
    write(tmp_path / "b", pictures(6, (5, 4, 1)))
    with pytest.warns(UserWarning, match="has no test part: 2 of its 12"):
        found = data.load(tmp_path)
    assert found.x_train.shape == (10, 5, 4, 1) and found.x_test.shape == (2, 5, 4, 1)
    known = {image.tobytes() for image in (gray / np.float32(255)).astype("float32")}
    mine = np.concatenate([found.x_train[found.y_train == 0], found.x_test[found.y_test == 0]])
    assert {image.tobytes() for image in mine} == known
    write(tmp_path / "b", pictures(1))  # one in colours: then all have three channels
    with pytest.warns(UserWarning, match="has no test part"):
        assert data.load(tmp_path).x_train.shape[1:] == (5, 4, 3)


def test_folders_that_are_refused(tmp_path):
    write(tmp_path / "train" / "a", pictures())
    write(tmp_path / "test" / "b", pictures())
    with pytest.raises(ValueError, match=r"the classes \['b'\] in .*test; expected .*\['a'\]"):
        data.load(tmp_path)
    write(tmp_path / "other" / "a", pictures())
    write(tmp_path / "other" / "b", pictures(2, (6, 4, 3)))
    with pytest.raises(ValueError, match=r"several sizes, 4 x 5 \(6\), 4 x 6 \(2\); expected one"):
        data.load(tmp_path / "other")
    (tmp_path / "broken" / "a").mkdir(parents=True)
    (tmp_path / "broken" / "a" / "x.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"x\.png, which is no image"):
        data.load(tmp_path / "broken")


def table(path, rows, head):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return path


@pytest.mark.parametrize(("shape", "words"), [((3, 3, 1), False), ((2, 2, 3), True)])
@pytest.mark.filterwarnings("ignore:.*has no test part")
def test_tables_of_pixels(tmp_path, shape, words):
    x, y = pictures(12, shape), np.arange(12) % 3
    names = ["ant", "bee", "cow"] if words else ["0", "1", "2"]
    rows = [[*image.ravel(), names[label]] for image, label in zip(x, y, strict=True)]
    head = [*(f"pixel{i}" for i in range(x[0].size)), "Label"]
    found = data.load(table(tmp_path / "own.csv", rows, head))
    assert found.class_names == tuple(names) and found.name == "own.csv"
    both = np.concatenate([found.x_train, found.x_test])
    labels = np.concatenate([found.y_train, found.y_test])
    order = [next(i for i in range(12) if (x[i] == np.round(255 * b)).all()) for b in both]
    assert sorted(order) == list(range(12)) and (y[order] == labels).all()


@pytest.mark.parametrize(
    ("head", "rows", "message"),
    [
        (["a", "b"], [[1, 2]], "one of which is label"),
        (["label", "p"], [], "one of which is label"),
        (["label", "p", "q"], [[0, 1, 2], [1, 2, 3]], "with 2 columns .* square images"),
        (["label", "p"], [[0, 0.5], [1, 3]], "integers from 0 to 255.*arrays"),
        (["label", "p"], [[0, 256], [1, 3]], "from 3 to 256"),
        (["label", "p"], [[0, "x"], [1, 3]], "expected pixels, numbers"),
        (["label", "p"], [[0], [1, 3]], "several lengths"),
    ],
)
def test_tables_that_are_refused(tmp_path, head, rows, message):
    with pytest.raises(ValueError, match=message):
        data.load(table(tmp_path / "own.csv", rows, head))


def test_the_digest_tells_data_apart(tmp_path):
    arrays = {"x_train": pictures(), "y_train": np.arange(6) % 2}
    arrays |= {"x_test": pictures(), "y_test": np.arange(6) % 2}
    for name in ("one", "two"):
        np.savez(tmp_path / f"{name}.npz", **arrays)
    one, two = (data.load(tmp_path / f"{name}.npz") for name in ("one", "two"))
    assert one.digest == two.digest and len(one.digest) == 64
    arrays["y_test"] = arrays["y_test"][::-1]
    np.savez(tmp_path / "two.npz", **arrays)
    assert data.load(tmp_path / "two.npz").digest != one.digest


def test_a_recipe_takes_a_folder(tmp_path, capsys):
    for word in "ab":
        write(tmp_path / "images" / "train" / word, pictures(8, (8, 8, 1)))
        write(tmp_path / "images" / "test" / word, pictures(3, (8, 8, 1)))
    recipe = 'title = "own"\n[data]\nname = "images"\n[model]\nname = "mlp"\nhidden = [4]\n'
    (tmp_path / "own.toml").write_text(recipe + "[training]\nepochs = 1\nbatch_size = 4\n")
    words = ["train", str(tmp_path / "own.toml"), "--out", str(tmp_path / "run")]
    assert cli.main([*words, "--set", "validation.steps=1"]) == 0
    card = (tmp_path / "run" / "model" / "card.json").read_text()
    assert data.load(tmp_path / "images").digest in card
