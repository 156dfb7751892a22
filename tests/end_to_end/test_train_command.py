"""`keras-pde train`: what its options change, and what it refuses."""

import pytest
from recipe_cases import toy_recipe, write_data

from keras_pde import cli, recipes

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
        patch.setattr(cli.train, "say", interrupt)
        assert command(*words) == 130
    assert "--resume goes on" in capsys.readouterr().err
    assert command(*words, "--resume", "--no-evaluation") == 0
    said = capsys.readouterr().out
    assert "22 training and 8 validation images" in said
    assert "Resumed after epoch 1 of 2" in said and "epoch 2/2" in said
    read = recipes.load(out / "recipe.toml")
    assert (read.training.epochs, read.training.seed, read.data.limit) == (2, 3, 30)
    assert read.objective[0].arguments["epsilon"] == 0.05
    assert not (out / "model").exists()
    assert command(*words, "--resume") == 0
    assert f"keras-pde evaluate {out}/model" in capsys.readouterr().out
    assert command(toml, "--out", out, "--resume") == 1
    assert "differs from the one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "objective.epsilon"], "expected --set KEY=VALUE"),
        (["--set", "objective.epsilom=1"], "Did you mean 'epsilon'"),
        (["--seed", "-1"], "training.seed = -1"),
    ],
)
def test_command_refuses(toml, tmp_path, capsys, words, message):
    assert command(toml, "--out", tmp_path / "run", *words) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert command(tmp_path / "absent.toml") == 1
    assert "which is no file" in capsys.readouterr().err
