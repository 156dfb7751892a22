"""The package installed outside a clone, offline: it loads what the cache has, and refuses forged
folders within little memory and without running anything from them."""

import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from forgery_cases import DIFFERENT, FORGERIES, huge_array
from hub_cases import WEIGHTS, edit_card, make_row, sign

import keras_pde as kp
from keras_pde import hub
from keras_pde.hub import download, index

SCRIPT = """
import json, os, sys
import numpy as np
import keras_pde as kp

model = kp.load_model("toy/small_cnn")
answer = {"package": kp.__file__, "logits": np.asarray(model(np.load("images.npy"))).tolist()}
refused = answer["refused"] = {}
for name in sorted(os.listdir("forged")):
    try:
        kp.load_model(os.path.join("forged", name))
        refused[name] = ""
    except ValueError as error:
        refused[name] = str(error)
# Not getrusage, whose maximum counts what the parent had when it started us.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
answer["memory"] = int(status["VmHWM"].split()[0]) * 1024
json.dump(answer, open("answer.json", "w"))
"""


class Spy:
    """Unpickled, it leaves a folder."""

    def __reduce__(self):
        return os.mkdir, ("spied",)


def lambda_model(path):
    """A .keras file whose function leaves a folder where it is run."""
    with contextlib.chdir(path.parent):
        spy = keras.layers.Lambda(lambda x: (os.makedirs("spied", exist_ok=True), x)[1])
        keras.Sequential([keras.Input((2,)), spy]).save("model.keras")
        os.rmdir("spied")  # Keras runs it here, to see its shape
        os.rename("model.keras", path.name)


def sparse(path):
    with open(path, "wb") as file:
        file.truncate(2**40)


# What stands in place of which file; beside the forged HDF5 trees.
REPLACED = {
    "pickle": (WEIGHTS, lambda path: path.write_bytes(pickle.dumps(Spy()))),
    "keras file with a lambda": (WEIGHTS, lambda_model),
    "terabyte": (WEIGHTS, sparse),
    "terabyte of golden logits": ("golden.npz", sparse),
    "pickle in golden": ("golden.npz", lambda p: np.savez(p, inputs=Spy(), logits=Spy())),
    "huge array": ("golden.npz", huge_array),
    "terabyte of card": ("card.json", sparse),
}


def forge(original, folder):
    for name, (change, match) in FORGERIES.items():
        if match != DIFFERENT:
            shutil.copytree(original, folder / name)
            with h5py.File(folder / name / WEIGHTS, "a") as file:
                change(file)
            sign(folder / name)
    for name, (file, write) in REPLACED.items():
        shutil.copytree(original, folder / name)
        (folder / name / file).unlink()
        write(folder / name / file)
        with open(folder / name / file, "ab") as stream:
            stream.write(bytes(2**16))  # as large as weights are
        if not name.startswith("terabyte"):
            sign(folder / name)
    shutil.copytree(original, folder / "zip bomb")
    with zipfile.ZipFile(folder / "zip bomb" / "golden.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inputs.npy", bytes(2**28))
    sign(folder / "zip bomb")
    shutil.copytree(original, folder / "code as architecture")
    edit_card(folder / "code as architecture", architecture="os.system", arguments={"a": "ls"})
    for name, parameters in {"huge model": 77_914, "huge model, counted": 2_888_036_010}.items():
        shutil.copytree(original, folder / name)
        edit_card(folder / name, arguments={"width": 4000}, parameters=parameters)


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    work = tmp_path_factory.mktemp("installed")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(kp.__file__).parent, work / "site" / "keras_pde", ignore=ignored)
    model = kp.models.create("small_cnn", width=2)
    card = {
        "architecture": "small_cnn",
        "arguments": {"width": 2},
        "title": "Toy",
        "dataset": "fashion_mnist_sample",
        "input_shape": (28, 28, 1),
        "classes": list("0123456789"),
        "licence": "Apache-2.0",
        "name": "toy/small_cnn",
        "objective": "Plain()",
        "measurements": [make_row()],
        "recipe": {"title": "Toy"},
        "provenance": {"seed": 0},
    }
    hub.save_model(model, work / "original", card)
    published = hub.publish(work / "original", to=work / "hub")
    (work / "cache").mkdir()
    source = work / "hub" / "toy" / "small_cnn"
    (listed,) = (m for m in index.read_index(work / "hub" / "zoo.json").values())
    for name, digest in (published.digests | listed.digests).items():
        shutil.copy(source / name, work / "cache" / digest)
    images = np.random.default_rng(0).random((3, 28, 28, 1), dtype="float32")
    np.save(work / "images.npy", images)
    (work / "forged").mkdir()
    forge(work / "original", work / "forged")
    environment = os.environ | {
        "PYTHONPATH": str(work / "site"),
        "CUDA_VISIBLE_DEVICES": "-1",
        index.OWN_INDEX: str(work / "hub" / "zoo.json"),
        download.CACHE: str(work / "cache"),
        download.OFFLINE: "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=work, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = np.asarray(keras.ops.convert_to_numpy(model(images)))
    return json.loads((work / "answer.json").read_text()) | {"work": work, "expected": expected}


def test_published_model_loads_from_the_cache_offline(answer):
    assert Path(answer["package"]).is_relative_to(answer["work"] / "site")
    np.testing.assert_allclose(answer["logits"], answer["expected"], rtol=1e-4, atol=1e-5)


def test_forged_folders_are_refused(answer):
    assert len(answer["refused"]) >= 8
    for name, message in answer["refused"].items():
        assert message.startswith("Received"), f"{name}: {message}"
        assert "traceback" not in message.lower()


def test_nothing_in_them_is_run(answer):
    assert not list(answer["work"].rglob("spied"))


def test_they_need_little_memory(answer):
    assert answer["memory"] < 1e9
    assert answer["memory"] > 1e8  # it was measured
