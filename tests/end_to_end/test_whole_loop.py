"""From a packed data set to a downloaded model that measures as its card says, by the commands."""

import functools
import http.server
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import keras_pde as kp
from keras_pde.cli import main

NAME = "toy/linf-0.1/small_cnn"
RECIPE = f"""
name = "{NAME}"
title = "The loop's model"
[data]
name = "DATA"
limit = 600
validation = 100
crop = 1
[model]
name = "small_cnn"
width = 2
[objective]
name = "adversarial"
norm = "linf"
epsilon = 0.1
steps = 40
[training]
epochs = 2
batch_size = 50
average = 0.9
[validation]
images = 50
steps = 2
[[evaluation]]
norm = "linf"
epsilons = [0.05]
images = 40
attacks = [{{ name = "pgd", steps = 3 }}]
"""


def command(*arguments):
    assert main([str(a) for a in arguments]) == 0


@pytest.fixture
def server(tmp_path):
    """The address of a web server that serves `hub/`."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    (tmp_path / "hub").mkdir()
    handler = functools.partial(Quiet, directory=tmp_path / "hub")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def train_and_kill(recipe, run):
    """Starts a training in another process and kills it once its first epoch is finished."""
    line = [sys.executable, "-m", "keras_pde.cli", "train", str(recipe), "--out", str(run)]
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (run / "checkpoint.npz").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def test_pack_train_kill_resume_publish_serve_load_measure(tmp_path, monkeypatch, capsys, server):
    parts, data, run = tmp_path / "parts", tmp_path / "toy.npz", tmp_path / "run"
    command("data", "pack", kp.data.SAMPLE, "--out", parts, "--max-mb", "1")
    command("data", "unpack", parts, "--out", data)
    recipe = tmp_path / "toy.toml"
    recipe.write_text(RECIPE.replace("DATA", data.as_posix()))

    train_and_kill(recipe, run)
    assert not (run / "model").exists()
    command("train", recipe, "--out", run, "--resume")
    assert "Resumed after epoch 1 of 2" in capsys.readouterr().out

    command("publish", run, "--to", tmp_path / "hub")
    trained = kp.load_model(run / "model")
    for name, value in {
        "KERAS_PDE_HUB": server,
        "KERAS_PDE_INDEX": tmp_path / "hub" / "zoo.json",
        "KERAS_PDE_CACHE": tmp_path / "cache",
    }.items():
        monkeypatch.setenv(name, str(value))
    assert NAME in [card.name for card in kp.list_models(norm="linf")]
    loaded = kp.load_model(NAME)
    for ours, theirs in zip(trained.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    # From here on out of the cache, with no server.
    monkeypatch.setenv("KERAS_PDE_HUB", "")
    monkeypatch.setenv("KERAS_PDE_OFFLINE", "1")
    capsys.readouterr()
    command("evaluate", NAME, "--data", data)
    shown = capsys.readouterr().out
    assert "agrees" in shown and "DIFFERS" not in shown
    assert len(os.listdir(tmp_path / "cache")) == 3  # card, weights and golden logits
