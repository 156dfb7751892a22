"""Packs of data sets: whole, in part, damaged, and by the command line."""

import hashlib
import json
import shutil
import subprocess
import time

import numpy as np
import pytest

from keras_pde import cli, data
from keras_pde.data import identity, pack, unpack

KEYS = (*data.KEYS, "class_names")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The sample in parts below 1 MB."""
    folder = tmp_path_factory.mktemp("packed")
    pack(data.SAMPLE, folder, max_mb=1)
    return folder


@pytest.fixture
def carried(packed, tmp_path):
    """A copy of it that a test may damage."""
    return shutil.copytree(packed, tmp_path / "carried")


def parts(folder):
    return sorted(folder.glob("*.xz.*"))


def save(path, **changes):
    """A small data set of floats that are no k / 255, and its arrays."""
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.random((9, 4, 5, 3), dtype="float32"),
        "y_train": np.arange(9) % 3,
        "x_test": rng.integers(0, 256, (6, 4, 5, 3), dtype="uint8"),
        "y_test": np.arange(6) % 3,
        "class_names": np.array(["a", "b", "c"]),
    }
    np.savez(path, **{**arrays, **changes})
    return path


def test_the_sample_comes_back_to_the_bit(packed, tmp_path):
    file = tmp_path / "new" / "sample.npz"
    manifest = unpack(packed, file)
    assert manifest["counts"] == {"train": 5500, "test": 1000}
    before, after = data.load(data.SAMPLE), data.load(file)
    for key in data.KEYS:
        assert getattr(after, key).tobytes() == getattr(before, key).tobytes()
    assert after.class_names == before.class_names
    with np.load(file) as plain:
        assert plain["x_train"].dtype == plain["x_test"].dtype == "uint8"
    assert [path.name for path in file.parent.iterdir()] == ["sample.npz"]


def test_parts_are_below_the_size_and_as_the_manifest_says(packed):
    manifest = json.loads((packed / "manifest.json").read_text())
    sizes = {path.name: path.stat().st_size for path in parts(packed)}
    assert {part["file"]: part["bytes"] for part in manifest["parts"]} == sizes
    assert len(sizes) == 3
    assert max(sizes.values()) < 10**6
    assert len(list(packed.iterdir())) == len(sizes) + 1, "nothing but parts and manifest"


def test_the_same_data_give_the_same_pack(packed, tmp_path):
    pack(data.SAMPLE, tmp_path, max_mb=1)
    for path in packed.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_images_that_are_no_bytes_stay_floats(tmp_path):
    whole = data.load(save(tmp_path / "own.npz"))
    pack(tmp_path / "own.npz", tmp_path / "pack", max_mb=0.001)
    unpack(tmp_path / "pack", tmp_path / "back.npz")
    with np.load(tmp_path / "back.npz") as stored:
        assert (stored["x_train"].dtype, stored["x_test"].dtype) == ("float32", "uint8")
    after = data.load(tmp_path / "back.npz")
    for key in data.KEYS:
        np.testing.assert_array_equal(getattr(after, key), getattr(whole, key))


def test_negative_zero_survives(tmp_path):
    x = np.zeros((9, 2, 2, 1), "float32")
    x[0] = -0.0
    pack(save(tmp_path / "own.npz", x_train=x, x_test=x[:6]), tmp_path / "pack")
    unpack(tmp_path / "pack", tmp_path / "back.npz")
    assert data.load(tmp_path / "back.npz").x_train.tobytes() == x.tobytes()


@pytest.mark.skipif(shutil.which("xz") is None, reason="needs the command xz")
def test_ordinary_tools_join_the_parts(packed, tmp_path):
    whole = b"".join(path.read_bytes() for path in parts(packed))
    (tmp_path / "plain.npz").write_bytes(
        subprocess.run(["xz", "-dc"], input=whole, capture_output=True, check=True).stdout
    )
    unpack(packed, tmp_path / "ours.npz")
    assert (tmp_path / "plain.npz").read_bytes() == (tmp_path / "ours.npz").read_bytes()


def remove(*numbers):
    def change(folder):
        for number in numbers:
            parts(folder)[number - 1].unlink()

    return change


def shorten(folder):
    path = parts(folder)[1]
    path.write_bytes(path.read_bytes()[:1000])


def flip(folder):
    content = bytearray(parts(folder)[0].read_bytes())
    content[5000] ^= 1
    parts(folder)[0].write_bytes(content)


def remove_and_shorten(folder):
    shorten(folder)
    remove(1)(folder)


def manifest_with(**changes):
    def change(folder):
        path = folder / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def foreign_part(folder):
    """A pack whose digests agree but whose parts are no compressed data."""
    content = b"no archive"
    parts(folder)[0].write_bytes(content)
    part = {"file": parts(folder)[0].name, "bytes": 10}
    manifest_with(parts=[{**part, "sha256": hashlib.sha256(content).hexdigest()}])(folder)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (remove(2), FileNotFoundError, r"of 3 parts: missing 2\."),
        (remove(3, 1), FileNotFoundError, r"missing 1, 3\."),
        (shorten, ValueError, r"damaged 2 \(1000 of 999999 bytes\)"),
        (flip, ValueError, r"damaged 1 \(another SHA-256\)"),
        (remove_and_shorten, ValueError, "missing 1; damaged 2"),
        (lambda folder: (folder / "manifest.json").unlink(), FileNotFoundError, "Copy that file"),
        (lambda folder: (folder / "manifest.json").write_text("<html>"), ValueError, "damaged"),
        (manifest_with(parts=[]), ValueError, "not what pack writes"),
        (manifest_with(parts=[{"file": "x"}]), ValueError, "KeyError"),
        (manifest_with(format=2), ValueError, "not what pack writes"),
        (manifest_with(npz_bytes=1000), ValueError, "more than 1000 bytes"),
        (manifest_with(arrays_sha256="0" * 64), ValueError, "digest of the arrays"),
        (foreign_part, ValueError, "is damaged"),
    ],
)
def test_unpack_says_what_is_missing_or_damaged(carried, tmp_path, change, error, message):
    change(carried)
    with pytest.raises(error, match=message):
        unpack(carried, tmp_path / "out.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["carried"], "something is left behind"


def test_existing_files_are_refused_or_replaced(carried, tmp_path):
    before = {path.name: path.read_bytes() for path in carried.iterdir()}
    with pytest.raises(FileExistsError, match=r"manifest\.json.*--overwrite"):
        pack(data.SAMPLE, carried)
    (carried / "manifest.json").unlink()
    with pytest.raises(FileExistsError, match=r"sample\.npz\.xz\.001"):
        pack(data.SAMPLE, carried)
    (carried / "notes.txt").write_text("kept")
    pack(data.SAMPLE, carried, max_mb=1.5, overwrite=True)
    assert len(parts(carried)) < len(before) - 1, "parts of the old pack are left"
    assert (carried / "notes.txt").read_text() == "kept"
    file = tmp_path / "out.npz"
    file.write_text("mine")
    with pytest.raises(FileExistsError, match="--overwrite"):
        unpack(carried, file)
    assert file.read_text() == "mine"
    unpack(carried, file, overwrite=True)
    assert len(data.load(file).x_train) == 5500


def test_a_full_disk_leaves_the_old_pack(carried, monkeypatch):
    before = {path.name: path.read_bytes() for path in carried.iterdir()}

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        pack(data.SAMPLE, carried, overwrite=True)
    assert {path.name: path.read_bytes() for path in carried.iterdir()} == before


@pytest.mark.parametrize("size", [0, -1, float("nan"), float("inf"), 1e-6])
def test_pack_refuses_sizes(tmp_path, size):
    with pytest.raises(ValueError, match="max_mb"):
        pack(data.SAMPLE, tmp_path, max_mb=size)
    assert not list(tmp_path.iterdir())


def test_pack_refuses_too_many_parts(tmp_path):
    with pytest.raises(ValueError, match="more than 999 parts"):
        pack(data.SAMPLE, tmp_path, max_mb=0.001)
    assert not list(tmp_path.iterdir())


def test_unpack_wants_an_npz(carried, tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.npz"):
        unpack(carried, tmp_path / "out.zip")


def test_a_named_set_is_read_from_an_npz_in_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "mnist.npz")
    assert data.available()["mnist"] == tmp_path / "mnist.npz"
    with pytest.raises(ValueError, match=r"whose train part of .* is not that of 'mnist'"):
        data.load("mnist")
    bytes_ = np.arange(540).astype("uint8").reshape(9, 4, 5, 3)
    save(tmp_path / "mnist.npz", x_train=bytes_)
    with np.load(tmp_path / "mnist.npz") as found:
        arrays = dict(found)
    order = np.random.default_rng(0).permutation(len(arrays["y_train"]))
    again = {"train": identity.digest(arrays["x_train"][order], arrays["y_train"][order])}
    monkeypatch.setitem(identity._DIGESTS, "mnist", again)
    assert data.load("mnist").name == "mnist", "in another order"
    one_hot = {key: arrays[key] for key in data.KEYS} | {"y_train": np.eye(3)[arrays["y_train"]]}
    np.savez(tmp_path / "mnist.npz", **one_hot)
    assert data.load("mnist").name == "mnist", "with other labels"
    np.savez(tmp_path / "mnist.npz", x_train=one_hot["x_train"], y_train=arrays["y_train"])
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="whose train part"):
        data.load("mnist")  # a part of which is made the test part
    other = arrays["y_train"].copy()
    other[0] = (other[0] + 1) % 3
    assert identity.digest(arrays["x_train"], other) != again["train"]
    floats = np.float32(arrays["x_train"]) / np.float32(255)
    assert identity.digest(floats, arrays["y_train"]) == again["train"]
    assert identity.digest(floats + np.float32(1e-3), arrays["y_train"]) != again["train"]


def test_commands(packed, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    target = str(tmp_path / "pack")
    assert cli.main(["data", "pack", data.SAMPLE, "--out", target, "--max-mb", "1"]) == 0
    shown = capsys.readouterr().out
    assert "sample.npz.xz.001: 999999 bytes" in shown and "3 parts, 2." in shown
    back = str(tmp_path / "cifar10.npz")
    assert cli.main(["data", "unpack", target, "--out", back]) == 0
    assert "5500 train and 1000 test images" in capsys.readouterr().out
    assert cli.main(["data", "unpack", target, "--out", back]) == 1
    assert "--overwrite" in capsys.readouterr().err
    start = time.perf_counter()
    assert cli.main(["data", "list"]) == 0
    assert time.perf_counter() - start < 2
    lines = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert list(lines) == list(data.NAMES)
    assert lines["cifar10"] == back
    assert lines["mnist"] == "absent"
    assert lines[data.SAMPLE].endswith(".npz")
    with pytest.raises(SystemExit):
        cli.main(["data"])
