"""Forged files under a signed card are refused before they do harm."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from forgery_cases import DIFFERENT, FORGERIES, huge_array
from hub_cases import SHAPE, refused, sign

from keras_pde import _keras, load_model


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_weights(saved, name, monkeypatch):
    forge, match = FORGERIES[name]
    if match != DIFFERENT:
        monkeypatch.setattr(_keras, "read_weights", None)  # refused before a number is read
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


FULL = """
import resource, sys, hub_cases
with hub_cases.registered():
    import keras_pde as kp
    for limit in (12_000, 5_000, 1_000):  # as disks with so much room: writing fails
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            kp.save_model(hub_cases.mlp(), sys.argv[1], hub_cases.make_fields())
        except OSError as error:
            print("OSError", error.errno)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path):
    """HDF5 ends the process where it cannot write to its file."""
    path = os.pathsep.join([str(Path(__file__).parents[1] / "cases"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path / "saved"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["OSError", str(errno.EFBIG)] * 3
    assert list(tmp_path.iterdir()) == []


def test_loading_writes_nothing(saved, monkeypatch):
    monkeypatch.setattr(tempfile, "mkdtemp", None)
    load_model(saved)
