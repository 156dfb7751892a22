"""The documentation runs: README's code, and the components that CONTRIBUTING adds."""

import dataclasses
import re
import tomllib
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_pde as kp
from keras_pde import registry
from keras_pde.recipes import build, recipe

ROOT = Path(__file__).parents[2]


def _blocks(document, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), flags=re.DOTALL)


def test_readme_code_runs(capsys):
    (code,) = _blocks("README.md", "python")
    small = code.replace("epochs=8", "epochs=1").replace("[:200]", "[:20]")
    assert small != code
    small = re.sub(r"(\.[xy]_train)", r"\1[:128]", small)
    exec(compile(small, "README.md", "exec"), {})
    assert "l2 robustness on 20 images" in capsys.readouterr().out


def test_code_on_equations_runs(capsys, monkeypatch, tmp_path):
    (code,) = _blocks("docs/equations.md", "python")
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("[:2048]", "[:64]"), "equations.md", "exec"), {})
    assert "convergence in depth, 64 examples" in capsys.readouterr().out
    assert keras.models.load_model("small.keras").count_params() > 0


@pytest.mark.filterwarnings("ignore:.*ends within a cycle")
def test_code_on_optimizers_runs():
    (code,) = _blocks("docs/optimizers.md", "python")
    found = {}
    exec(compile(code.replace("[:1024]", "[:256]"), "optimizers.md", "exec"), found)
    assert found["model"].optimizer is found["optimizer"]


def test_code_on_your_model_runs(capsys, monkeypatch, tmp_path):
    """Its blocks, one after another."""
    code = "\n".join(_blocks("docs/your_model.md", "python"))
    small = code.replace("[:512]", "[:128]").replace("[:100]", "[:20]").replace("[:50]", "[:20]")
    small = small.replace("epochs=2", "epochs=1").replace("(255 * x)", "(255 * x, 64)")
    small = small.replace("(50, 2)", "(20, 2)")
    monkeypatch.chdir(tmp_path)
    exec(compile(small, "your_model.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "any label flips" in printed and "error above 0.5" in printed


def test_pages_link_to_files_that_exist():
    for page in (ROOT / "docs").glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_the_page_on_recipes_names_every_key():
    page = (ROOT / "docs" / "recipes.md").read_text()
    tables = (recipe.Data, recipe.Training, recipe.Validation, recipe.Evaluation, recipe.Recipe)
    keys = {item.name for table in tables for item in dataclasses.fields(table)} - {"values"}
    assert sorted(key for key in keys if f"`{key}`" not in page and f"[{key}]" not in page) == []


def test_the_smallest_recipe_is_one():
    (text,) = _blocks("docs/recipes.md", "toml")
    build.check(recipe.Recipe.of(tomllib.loads(text)))


@pytest.fixture
def additions(monkeypatch):
    """CONTRIBUTING's new files, executed; the registry forgets them afterwards."""
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    names = {}
    for block in _blocks("CONTRIBUTING.md", "diff"):
        first = block.split("+++")[1]
        lines = [line[1:] for line in first.splitlines() if line.startswith("+")]
        exec(compile("\n".join(lines), "CONTRIBUTING.md", "exec"), names)
    return names


def test_contributing_components_work(additions):
    images = np.random.default_rng(0).random((16, 8, 8, 1)).astype("float32")
    labels = np.arange(16) % 10
    model = additions["linear"](input_shape=(8, 8, 1))
    robust = kp.RobustModel(model, additions["LogitPenalty"](0.1))
    robust.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = robust.fit(images, labels, verbose=0).history
    assert history["logit_penalty"][0] > 0
    result = additions["MomentumPGD"]("linf", 0.2, steps=5)(model, images, labels)
    assert result.success.any()
    block = kp.layers.ContinuousBlock(additions["Damping"](0.5), steps=8)
    np.testing.assert_allclose(block(np.ones((1, 2), "float32")), np.exp(-0.5), rtol=1e-5)
    x = keras.Variable(1.0)
    extragradient = additions["Extragradient"](0.1)
    for _ in range(2):
        extragradient.apply([x.value], [x])  # f = x^2 / 2
    assert float(x.value) == pytest.approx(1 - 0.1 * (1 - 0.1))
    components = {"logit_penalty", "momentum", "damping", "extragradient", "linear"}
    assert components <= {name for _, name in registry._entries}
