"""Data sets: the embedded sample, files, absent and broken data."""

import builtins
import hashlib
import time

import keras
import numpy as np
import pytest

from keras_pde import data

SAMPLE_SHA256 = "b5bf65a583dd6eb0e109f485a12a666c96fa609b95f56ad1718d9b99a804dbdf"


@pytest.fixture
def no_data(monkeypatch, tmp_path):
    """A machine without any prepared set."""
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def arrays(**changes):
    rng = np.random.default_rng(0)
    good = {
        "x_train": rng.integers(0, 256, size=(12, 4, 5, 3), dtype="uint8"),
        "y_train": np.arange(12) % 3,
        "x_test": rng.integers(0, 256, size=(6, 4, 5, 3), dtype="uint8"),
        "y_test": np.arange(6) % 3,
    }
    return {key: value for key, value in {**good, **changes}.items() if value is not None}


@pytest.fixture
def load(tmp_path):
    """Saves arrays as .npz and loads them."""

    def save_and_load(limit=None, seed=0, layout=None, num_classes=None, **changes):
        np.savez(tmp_path / "own.npz", **arrays(**changes))
        options = {"limit": limit, "seed": seed, "layout": layout, "num_classes": num_classes}
        return data.load(tmp_path / "own.npz", **options)

    return save_and_load


def test_sample():
    sample = data.load(data.SAMPLE)
    assert sample.x_train.shape == (5500, 28, 28, 1)
    assert sample.x_test.shape == (1000, 28, 28, 1)
    assert sample.x_train.dtype == "float32"
    assert (sample.x_train.min(), sample.x_train.max()) == (0.0, 1.0)
    assert np.bincount(sample.y_train).tolist() == [550] * 10
    assert np.bincount(sample.y_test).tolist() == [100] * 10
    assert sample.class_names[9] == "Ankle boot"
    assert "x_train" not in repr(sample)


def test_sample_file():
    file = data.available()[data.SAMPLE]
    assert sum(f.stat().st_size for f in file.parent.iterdir()) < 3_000_000
    with np.load(file) as archive:
        digest = hashlib.sha256(b"".join(archive[key].tobytes() for key in data.KEYS))
    assert digest.hexdigest() == SAMPLE_SHA256
    assert "MIT License" in (file.parent / "LICENSE-fashion-mnist").read_text(encoding="utf-8")


def test_npz_kinds_agree(load):
    whole = load()
    assert whole.name == "own"
    assert whole.class_names == ("0", "1", "2")
    assert whole.y_train.dtype == "int64"
    np.testing.assert_array_equal(whole.x_test, arrays()["x_test"] / np.float32(255))
    variants = {
        "floats": {k: arrays()[k] / np.float32(255) for k in ("x_train", "x_test")},
        "one-hot": {k: np.eye(3)[arrays()[k]] for k in ("y_train", "y_test")},
        "column": {k: arrays()[k][:, None] for k in ("y_train", "y_test")},
    }
    for changes in variants.values():
        other = load(**changes)
        for key in data.KEYS:
            np.testing.assert_array_equal(getattr(other, key), getattr(whole, key))


def test_a_file_called_like_a_published_set_is_another_set(tmp_path):
    np.savez(tmp_path / "mnist.npz", **arrays())
    assert data.load(tmp_path / "mnist.npz").name == "mnist.npz"
    with pytest.raises(ValueError, match="is not that of 'mnist'"):
        data.load("mnist", data_dir=tmp_path)


def test_channels_first(load):
    x = np.moveaxis(arrays()["x_train"], -1, 1)
    both = {"x_train": x, "x_test": x[:6]}
    with pytest.raises(ValueError, match=r"\(12, 3, 4, 5\), which looks like channels first"):
        load(**both)
    moved = load(**both, layout="channels_first")
    np.testing.assert_array_equal(moved.x_train, load().x_train)
    assert load(**both, layout="channels_last").x_train.shape == (12, 3, 4, 5)
    with pytest.raises(ValueError, match="unknown layout"):
        load(layout="NCHW")


def test_signals_are_no_images(load):
    x = np.zeros((12, 50, 2), "uint8")
    with pytest.raises(ValueError, match="looks like signals"):
        load(x_train=x, x_test=x[:6])
    assert load(x_train=x, x_test=x[:6], layout="channels_last").x_train.shape == (12, 50, 2, 1)


@pytest.mark.parametrize("kind", [str, bytes])
def test_labels_in_words(load, kind):
    words = np.array(["dog", "cat", "eel"] * 4)
    words = words.astype("S") if kind is bytes else words
    read = load(y_train=words, y_test=words[:6])
    assert read.class_names == ("cat", "dog", "eel")
    assert read.y_train[:3].tolist() == [1, 0, 2] and read.y_test[:2].tolist() == [1, 0]
    names = np.array([b"eel", b"dog", b"cat", b"ant"])
    named = load(y_train=words, y_test=words[:6], class_names=names)
    assert named.class_names == ("eel", "dog", "cat", "ant") and named.y_train[0] == 1
    with pytest.raises(ValueError, match=r"labels \['eel'\]; expected those of class_names"):
        load(y_train=words, y_test=words[:6], class_names=names[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y + 1, "3 distinct labels from 1 to 3; expected 0 to 2: subtract 1"),
        (lambda y: y * 10**8, "3 distinct labels from 0 to 200000000; expected 0 to 2: number"),
        (lambda y: y * 2, "from 0 to 4; expected 0 to 2"),
    ],
)
def test_labels_that_leave_classes_out_are_refused(load, change, message):
    y = arrays()["y_train"]
    with pytest.raises(ValueError, match=message):
        load(y_train=change(y), y_test=change(y[:6]))
    absent = load(y_train=y * 2, y_test=y[:6] * 2, class_names=np.array(list("abcdef")))
    assert len(absent.class_names) == 6


def test_a_file_without_a_test_part(load):
    with pytest.warns(UserWarning, match="no test part: 2 of its 12 examples, always the same"):
        read = load(x_test=None, y_test=None)
    assert len(read.x_train) == 10 and len(read.x_test) == 2
    with pytest.warns(UserWarning):
        again = load(x_test=None, y_test=None)
    np.testing.assert_array_equal(read.x_test, again.x_test)
    everything = np.sort(np.concatenate([read.x_train, read.x_test]).ravel())
    np.testing.assert_allclose(everything, np.sort(arrays()["x_train"].ravel() / np.float32(255)))


def test_npz_gray_images_and_class_names(load):
    x = np.zeros((6, 4, 5), "uint8")
    y = np.arange(6)
    gray = load(x_train=x, y_train=y, x_test=x, y_test=y, class_names=np.array(list("abcdef")))
    assert gray.x_train.shape == (6, 4, 5, 1)
    assert gray.class_names == tuple("abcdef")


def test_limit_is_balanced_seeded_and_nested():
    small, large = (data.load(data.SAMPLE, limit=n, seed=3) for n in (25, 40))
    assert sorted(np.bincount(small.y_train)) == [2] * 5 + [3] * 5
    np.testing.assert_array_equal(large.x_train[:25], small.x_train)
    other = data.load(data.SAMPLE, limit=25, seed=4)
    assert not np.array_equal(other.x_train, small.x_train)
    assert len(small.x_test) == 1000
    assert len(data.load(data.SAMPLE, limit=10**6).x_train) == 5500


@pytest.mark.parametrize("size", [0.25, 10])
def test_split_validation_is_stratified_and_a_partition(load, size):
    y = np.array([0] * 20 + [1] * 12 + [2] * 8)
    x = np.arange(40, dtype="uint8")[:, None, None]
    whole = load(x_train=x, y_train=y, x_test=x, y_test=y)
    (x_train, y_train), (x_validation, y_validation) = whole.split_validation(size, seed=1)
    assert np.bincount(y_validation).tolist() == [5, 3, 2]
    assert np.bincount(y_train).tolist() == [15, 9, 6]
    together = np.concatenate([x_train, x_validation]).ravel()
    np.testing.assert_array_equal(np.sort(together), whole.x_train.ravel())


@pytest.mark.parametrize("size", [0, 12, -1, 0.0, 1.0, 1.5, 0.001])
def test_split_validation_refuses(load, size):
    with pytest.raises(ValueError, match="validation size"):
        load().split_validation(size)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, r"without \['y_test'\]"),
        ({"x_test": np.zeros((6, 4, 5, 3))[:0]}, "as many labels"),
        ({"y_train": np.arange(11)}, "12 images in x_train and 11 labels"),
        ({"x_test": np.zeros((6, 4, 4, 3), "uint8")}, "one shape"),
        ({"x_train": np.full((12, 4, 5, 3), np.nan)}, "replace NaN"),
        ({"x_train": np.full((12, 4, 5, 3), 255.0)}, "Divide 0-255 images by 255"),
        ({"x_train": np.full((12, 4, 5, 3), -0.1)}, "leave normalisation to the model"),
        ({"x_train": np.zeros((12, 4, 5, 3), "int64")}, "astype"),
        ({"x_train": np.zeros((12, 60), "uint8")}, "Reshape"),
        ({"y_train": np.arange(12) - 1}, "labels from 0"),
        ({"y_train": np.arange(12) / 2}, "expected integers"),
        ({"y_train": np.ones((12, 3))}, "not one-hot"),
        ({"class_names": np.array(["a", "b"])}, "from 0 to 1"),
        ({"y_train": np.array([None] * 12)}, "plain arrays"),
    ],
)
def test_refuses_broken_npz(load, changes, message):
    with pytest.raises(ValueError, match=message):
        load(**changes)


def test_refuses_what_is_no_archive(tmp_path):
    (tmp_path / "page.npz").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="cannot be read"):
        data.load(tmp_path / "page.npz")
    np.save(tmp_path / "single.npy", np.zeros(3))
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    with pytest.raises(ValueError, match="cannot be read"):
        data.load(tmp_path / "single.npz")


def test_refuses_limit():
    with pytest.raises(ValueError, match="limit=0"):
        data.load(data.SAMPLE, limit=0)


def test_unknown_name_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'fashion_mnist'"):
        data.load("fashion-mnist")


def test_absent_data_fails_quickly_and_says_where_it_looked(no_data, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "from_environment"))
    start = time.perf_counter()
    with pytest.raises(FileNotFoundError) as caught:
        data.load("cifar10", data_dir=tmp_path / "given")
    assert time.perf_counter() - start < 2
    message = str(caught.value)
    looked = [message.index(f"{where}/cifar10") for where in ("given", "from_environment")]
    assert looked == sorted(looked)
    assert "tensorflow_datasets/cifar10" in message
    for way in ("download=True", "keras_pde[data]", ".npz", data.SAMPLE):
        assert way in message


def test_absent_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match="which is no file"):
        data.load(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError, match="dataset_info"):
        data.load(tmp_path)


def test_newest_version_is_found_by_number(no_data, tmp_path):
    for version in ("3.0.2", "3.0.10", "3.0.9"):
        (tmp_path / "mnist" / version).mkdir(parents=True)
        (tmp_path / "mnist" / version / "dataset_info.json").write_text("{}")
    (tmp_path / "mnist" / "4.0.0").mkdir()  # a preparation that failed
    assert data.available(tmp_path)["mnist"] == tmp_path / "mnist" / "3.0.10"


def test_missing_package_gives_the_install_line(no_data, monkeypatch, tmp_path):
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
    (tmp_path / "mnist" / "3.0.1" / "dataset_info.json").write_text("{}")
    original = builtins.__import__

    def without_tfds(name, *args, **kwargs):
        if name == "tensorflow_datasets":
            raise ImportError("No module named 'tensorflow_datasets'")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_tfds)
    with pytest.raises(ImportError, match=r"pip install 'keras_pde\[data\]'"):
        data.load("mnist", data_dir=tmp_path)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TFDS reads with TensorFlow")
def test_tfds_folder(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    x = np.random.default_rng(0).integers(0, 256, size=(9, 4, 4, 1), dtype="uint8")
    examples = [(i, {"image": x[i], "label": i % 3}) for i in range(9)]
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny",
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(4, 4, 1)),
                "label": tfds.features.ClassLabel(names=["a", "b", "c"]),
            }
        ),
        split_datasets={"train": examples[:6], "test": examples[6:]},
        data_dir=tmp_path,
        disable_shuffling=True,
    )
    for path in (tmp_path / "tiny", tmp_path / "tiny" / "1.0.0"):
        tiny = data.load(path)
        assert tiny.name == "tiny"
        assert tiny.class_names == ("a", "b", "c")
        np.testing.assert_array_equal(tiny.x_train, x[:6] / np.float32(255))
        np.testing.assert_array_equal(tiny.y_test, [0, 1, 2])


@pytest.mark.parametrize(
    "shape, match",
    [
        ((12, 2, 8, 8), "channels first"),
        ((12, 5, 8, 8), "channels first"),
        ((12, 12, 3), "signals"),
    ],
)
def test_what_is_hardly_an_image_is_asked_about(load, shape, match):
    x = np.zeros(shape, "uint8")
    with pytest.raises(ValueError, match=match):
        load(x_train=x, x_test=x[:6])
    assert load(x_train=x, x_test=x[:6], layout="channels_last").x_train.shape[0] == 12


def test_classes_without_examples_are_said(load):
    y = np.array([0, 2] * 6)
    with pytest.raises(ValueError, match="say num_classes"):
        load(y_train=y, y_test=y[:6])
    assert load(y_train=y, y_test=y[:6], num_classes=5).class_names == tuple("01234")
    with pytest.raises(ValueError, match="expected labels from 0 to 1"):
        load(y_train=y, y_test=y[:6], num_classes=2)
    with pytest.raises(ValueError, match="num_classes"):
        load(num_classes=0)
