"""`keras-pde train`: what its options change, and what it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from recipe_cases import toy_recipe, write_data

from keras_pde import cli, recipes
from keras_pde.cli import train

pytestmark = pytest.mark.usefixtures("toy")


@pytest.fixture
def toml(tmp_path):
    """A recipe as a file, beside its data."""
    write_data(tmp_path)
    path = tmp_path / "toy.toml"
    path.write_text(toy_recipe(tmp_path / "toy.npz").to_toml(), encoding="utf-8")
    return path


def command(*words):
    return cli.main(["train", *map(str, words)])


def test_a_command_changes_a_recipe_and_can_be_interrupted(toml, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    words = [toml, "--out", out, "--epochs", 2, "--limit", 30, "--seed", 3]
    words += ["--set", "objective.epsilon=1/20"]

    def interrupt(line):
        if line.startswith("epoch 1/"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "say", interrupt)
        assert command(*words) == 130
    assert "--resume goes on" in capsys.readouterr().err
    assert command(*words, "--resume", "--no-evaluation") == 0
    said = capsys.readouterr().out
    assert "22 training and 8 validation images" in said
    assert "Resumed after epoch 1 of 2" in said and "epoch 2/2" in said
    assert "Not evaluated, and no model saved" in said
    read = recipes.load(out / "recipe.toml")
    assert (read.training.epochs, read.training.seed, read.data.limit) == (2, 3, 30)
    assert read.objective[0].arguments["epsilon"] == 0.05
    assert not (out / "model").exists()
    assert command(*words, "--resume") == 0
    said = capsys.readouterr().out
    assert f"keras-pde evaluate {out}/model --data {tmp_path / 'toy.npz'}" in said
    assert command(toml, "--out", out, "--resume") == 1
    assert "differs from the one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "objective.epsilon"], "expected --set KEY=VALUE"),
        (["--set", "objective.epsilom=1"], "Did you mean 'epsilon'"),
        (["--seed", "-1"], "training.seed = -1"),
        (["--set", "name=../away"], "name='../away'; expected words of letters"),
        (
            ["--set", "data.crop=6"],
            "data.crop = 6 for images of 6 x 6 pixels; expected less than 6",
        ),
        (["--set", "data.cutout=9"], "data.cutout = 9"),
    ],
)
def test_command_refuses(toml, tmp_path, capsys, words, message):
    assert command(toml, "--out", tmp_path / "run", *words) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert command(tmp_path / "absent.toml") == 1
    assert "which is no file" in capsys.readouterr().err


def test_a_title_that_the_terminal_has_no_letters_for(toml, tmp_path):
    toml.write_text(toml.read_text().replace("A toy", "Größe"), "utf-8-sig")  # with a mark, too
    words = ["train", toml, "--out", tmp_path / "run", "--epochs", "1", "--no-evaluation"]
    code = "import recipe_cases, sys; from keras_pde import cli\n"
    code += "with recipe_cases.registered(): sys.exit(cli.main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parents[1] / "cases"), *sys.path]
    )
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Gr\\xf6\\xdfe" in done.stdout


@pytest.mark.parametrize("content", ["", '{"state": "tra', "[]", "[" * 10**5])
def test_a_damaged_run_is_told(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run.json, which is damaged .*Bring back a copy"):
        recipes.RunFolder(tmp_path).state()
