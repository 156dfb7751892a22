"""A whole offline training, on a machine that has Python and JAX and nothing else.

The machine is the interpreter in KERAS_PDE_BARE_PYTHON, of an environment with JAX alone; `.ci/run`
makes one. It runs in an empty folder, without this repository, and without a network.
"""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest

import keras_pde as kp
from keras_pde import hub, offline, recipes

BARE = os.environ.get("KERAS_PDE_BARE_PYTHON")
EPOCHS = 12

pytestmark = pytest.mark.skipif(not BARE, reason="needs an environment with JAX alone")

NO_NETWORK = """
import socket

def refused(*args, **kwargs):
    raise PermissionError("there is no network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refused
"""


class There:
    """The other machine."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        guard = folder / "guard"
        guard.mkdir()
        (guard / "sitecustomize.py").write_text(NO_NETWORK)
        self.environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": str(guard)}

    def start(self, command):
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments):
        """Starts offline.pyz, to its end: exit code, output and seconds."""
        began = time.monotonic()
        process = self.start([BARE, "offline.pyz", *arguments])
        output, _ = process.communicate(timeout=600)
        return process.returncode, output, time.monotonic() - began


@pytest.fixture(scope="module")
def recipe():
    return recipes.Recipe.of(
        {
            "title": "A rehearsal",
            "name": "fashion_mnist_sample/linf-0.05/mlp",
            "data": {"name": "fashion_mnist_sample", "limit": 1000, "flip": True},
            "model": {"name": "mlp", "hidden": [16]},
            "objective": {
                **{"name": "adversarial", "norm": "linf", "epsilon": 0.05},
                **{"steps": 2, "random_start": True},
            },
            "optimizer": {"name": "sgd", "momentum": 0.9},
            "schedule": {"name": "one_cycle", "peak": 0.05},
            "training": {"epochs": EPOCHS, "average": 0.9, "batch_size": 64},
            "validation": {"epsilon": 0.05, "steps": 3},
            "evaluation": [{"norm": "linf", "epsilons": [0.05], "images": 100}],
        }
    )


@pytest.fixture(scope="module")
def have(tmp_path_factory):
    """What the probe printed."""
    folder = tmp_path_factory.mktemp("probe")
    printed = subprocess.run(
        offline.probe().replace("python3", BARE, 1),
        shell=True,
        env=There(folder / "there").environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert {"keras", "optree", "rich"} <= set(json.loads(printed)["missing"])
    (folder / "probe.json").write_text(printed)
    return folder / "probe.json"


@pytest.fixture(scope="module")
def there(recipe, have, tmp_path_factory):
    """The machine with the bundles in it, which came in turns."""
    folder = tmp_path_factory.mktemp("rehearsal")
    there = There(folder / "there")
    manifest = offline.pack(recipe, folder / "bundles", have=have, max_mb=15)
    assert len(manifest["bundles"]) > 1
    *others, last = sorted((folder / "bundles").iterdir(), reverse=True)
    for path in others:
        path.rename(there.folder / path.name)
    code, output, _ = there.run("check")
    assert code == 1 and "missing 1" in output
    last.rename(there.folder / last.name)
    code, output, _ = there.run("check")
    assert code == 0 and "sound" in output
    return there


@pytest.fixture(scope="module")
def whole(there):
    """What comes back from an uninterrupted training."""
    out = there.folder / "whole"
    code, output, seconds = there.run("run", "--out", str(out), "--max-minutes", "5")
    assert code == 0, output
    assert seconds < 300 and "images a second" in output
    assert f"epoch {EPOCHS}/{EPOCHS}" in output
    names = {path.name for path in out.iterdir()}
    assert len(names) == 4 and {"run.json", "curves.png", f"state-{EPOCHS}.npz.001"} < names
    return out


@pytest.fixture(scope="module")
def killed(there, tmp_path_factory):
    """A training that was killed in the middle: its command, and the run that came back."""
    out = there.folder / "killed"
    command = ["run", "--out", str(out), "--max-minutes", "5", "--work", "other"]
    process = there.start([BARE, "offline.pyz", *command])
    for line in process.stdout:
        if line.startswith("epoch 3/"):
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    half = offline.collect(out, tmp_path_factory.mktemp("killed") / "run")
    assert half.state() == "stopped" and 3 <= len(half.read_json("run.json")["history"]) < EPOCHS
    return command, out, half


def test_resumed_there_it_ends_with_the_same_bits(there, whole, killed):
    command, out, _ = killed
    code, output, _ = there.run(*command, "--resume")
    assert code == 0, output
    files = sorted(path.name for path in whole.glob("*.npz.*"))
    assert len(files) == 2 and files == sorted(path.name for path in out.glob("*.npz.*"))
    for name in files:
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_another_machine_goes_on(recipe, have, whole, killed, tmp_path):
    """With the rounded state, to nearly the same weights."""
    half = killed[2]
    another = There(tmp_path / "another")
    offline.pack(recipe, tmp_path / "bundles", have=have, resume=half.path)
    for path in (tmp_path / "bundles").iterdir():
        path.rename(another.folder / path.name)
    command = ["run", "--out", str(tmp_path / "out"), "--max-minutes", "5"]
    code, output, _ = another.run(*command)
    assert code == 1 and "--resume" in output
    code, output, _ = another.run(*command, "--resume")
    assert code == 0, output
    done = len(half.read_json("run.json")["history"])
    assert f"Resumed after epoch {done} of {EPOCHS}" in output
    ours, theirs = (
        offline.collect(folder, tmp_path / name).read_arrays("best.npz")[0]
        for name, folder in (("ours", tmp_path / "out"), ("theirs", whole))
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0.05, atol=0.02)
    code, output, _ = another.run(*command, "--resume")
    assert code == 0 and "whole state" in output


def test_it_is_measured_published_and_loaded(recipe, whole, tmp_path):
    run = offline.collect(whole, tmp_path / "run", evaluate=True)
    assert run.state() == "finished"
    (row,) = hub.load_card(run / "model").measurements
    assert 0 < row.robust_accuracy <= row.clean_accuracy
    assert row.clean_accuracy > 0.5, "it has learned nothing"
    card = hub.publish(run.path, to=tmp_path / "hub", weights="float16")
    assert not card.caveats  # the weights that were measured are these
    model = kp.load_model(tmp_path / "hub" / recipe.name)
    data = kp.data.load("fashion_mnist_sample")
    found = np.argmax(model.predict(data.x_test[:100], verbose=0), axis=1) == data.y_test[:100]
    assert found.mean() == pytest.approx(row.clean_accuracy, abs=0.02)


def test_the_minutes_hold_also_when_they_are_too_few(there, tmp_path):
    code, output, seconds = there.run(
        *("run", "--out", str(tmp_path / "out"), "--max-minutes", "0.2", "--work", "short")
    )
    assert code in (1, 3) and "offline: error" in output
    assert seconds < 0.2 * 60 + 5
