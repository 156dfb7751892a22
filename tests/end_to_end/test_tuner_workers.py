"""Searches by several processes: the documented commands, and addresses that are refused."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from keras_pde import cli, recipes

pytest.importorskip("keras_tuner")

from keras_pde.tuner import chief

ROOT = Path(__file__).parents[2]


def _commands(tmp_path):
    """The page's two searches, shortened and into another folder."""
    section = (
        (ROOT / "docs" / "recipes.md").read_text().split("## Searching\n")[1].split("\n## ")[0]
    )
    blocks = re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)
    short = "--trials 3 --epochs 1 --limit 200 --set model.width=2"
    return [block.replace("--trials 6", short).replace("runs/", f"{tmp_path}/") for block in blocks]


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _check_results(folder):
    trials = json.loads((folder / "trials.json").read_text())
    assert [trial["state"] for trial in trials] == ["completed"] * 3
    best = recipes.load(folder / "best.toml")
    assert best.search == {} and best.training.epochs > 1  # the trials were shortened, not it
    assert (folder / "tradeoff.png").exists()
    return trials


@pytest.mark.slow
def test_the_documented_search(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    name, *arguments = shlex.split(_commands(tmp_path)[0])
    assert (name, cli.main(arguments)) == ("keras-pde", 0)
    _check_results(tmp_path / "search")
    assert "Best of 3 trials" in capsys.readouterr().out


@pytest.mark.slow
def test_the_documented_chief_and_workers(tmp_path):
    program = tmp_path / "bin" / "keras-pde"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m keras_pde.cli "$@"\n')
    program.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    script = _commands(tmp_path)[1].replace("8765", str(_free_port()))
    run = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert run.stdout.count("Best of 3 trials") == 1, run.stdout + run.stderr
    ran = [int(count) for count in re.findall(r"This worker ran (\d) trials", run.stdout)]
    assert len(ran) == 2 and sum(ran) == 3
    trials = _check_results(tmp_path / "together")
    assert {trial["worker"] for trial in trials} <= {"worker0", "worker1"}


# Who is who


@pytest.fixture
def environment(monkeypatch):
    def set_all(**values):
        for name in (chief.ID, chief.IP, chief.PORT):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(getattr(chief, name), str(value))

    return set_all


@pytest.mark.parametrize(
    ("values", "role"),
    [
        ({}, "alone"),
        ({"ID": "chief", "IP": "127.0.0.1", "PORT": 1}, "chief"),
        ({"ID": "worker0", "IP": "127.0.0.1", "PORT": 1}, "worker"),
    ],
)
def test_roles(values, role, environment):
    environment(**values)
    assert chief.role() == role


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"IP": "127.0.0.1"}, "without KERASTUNER_TUNER_ID and KERASTUNER_ORACLE_PORT"),
        ({"ID": "chief", "IP": "127.0.0.1", "PORT": "http"}, "expected a port number"),
    ],
)
def test_half_an_environment(values, message, environment):
    environment(**values)
    with pytest.raises(ValueError, match=message):
        chief.role()


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("10.1.2.3", True),
        ("192.168.0.7", True),
        ("0.0.0.0", False),
        ("8.8.8.8", False),
    ],
)
def test_networks(address, allowed, environment, monkeypatch):
    environment(ID="chief", IP=address, PORT=8765)
    if address[0].isdigit():  # the tests' guard knows this machine only
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args: found)
    if allowed:
        chief.check_network()
        return
    with pytest.raises(ValueError, match="--trust-network"):
        chief.check_network()
    chief.check_network(trusted=True)


def test_a_taken_port_and_an_absent_chief(environment):
    with socket.create_server(("127.0.0.1", 0)) as server:
        environment(ID="chief", IP="127.0.0.1", PORT=server.getsockname()[1])
        with pytest.raises(ValueError, match="expected a free port"):
            chief.check_free()
        chief.wait(seconds=0)
    chief.check_free()
    with pytest.raises(ValueError, match="no chief has answered for 0 seconds"):
        chief.wait(seconds=0)
