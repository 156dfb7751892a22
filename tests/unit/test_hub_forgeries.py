"""Forged files under a signed card are refused before they do harm."""

import shutil

import h5py
import keras
import numpy as np
import pytest
from forgery_cases import DIFFERENT, FORGERIES, huge_array
from hub_cases import SHAPE, refused, registered, save_original, sign


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    with registered():
        yield save_original(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def saved(tmp_path, original):
    return shutil.copytree(original, tmp_path / "tiny")


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_weights(saved, name, monkeypatch):
    forge, match = FORGERIES[name]
    if match != DIFFERENT:
        monkeypatch.setattr(keras.Model, "load_weights", None)  # refused before a number is read
    with h5py.File(saved / "model.weights.h5", "a") as file:
        forge(file)
    assert (saved / "model.weights.h5").stat().st_size < 2**17
    sign(saved)
    refused(saved, match)


def test_not_hdf5(saved):
    (saved / "model.weights.h5").write_bytes(b"PK" * 1000)
    sign(saved)
    refused(saved, "damaged, made for another model or forged")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: np.savez(path, inputs=np.array([object()]), logits=np.array([object()])),
        lambda path: np.savez(path, inputs=np.zeros((4, *SHAPE), "f4")),
        lambda path: np.savez_compressed(
            path, inputs=np.zeros((4, *SHAPE), "f4"), logits=np.zeros((4, 3), "f4")
        ),
        lambda path: np.savez(path, inputs=np.zeros((4, *SHAPE), "f4"), logits=np.zeros((4, 3))),
        lambda path: np.savez(
            path, inputs=np.zeros((4, *SHAPE), "f4"), logits=np.full((4, 3), np.inf, "f4")
        ),
        huge_array,
        lambda path: path.write_bytes(b"PK"),
    ],
    ids=["pickle", "missing", "compressed", "type", "infinite", "huge", "not a zip"],
)
def test_forged_golden(saved, write):
    write(saved / "golden.npz")
    sign(saved)
    refused(saved, r"golden\.npz, which is damaged")
