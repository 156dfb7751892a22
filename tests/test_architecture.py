"""The house: who may import whom, what is public, and what every docstring must say."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import keras
import pytest

import keras_pde as kp
from keras_pde import registry

PACKAGE = Path(kp.__file__).parent

# Imports point only downwards; modules of one step do not import each other.
STEPS = [
    {"cli"},
    {"offline", "tuner"},
    {"quickstart", "recipes"},
    {"hub"},
    {"evaluation"},
    {"callbacks"},
    {"analysis"},
    {"training"},
    {"objectives"},
    {"attacks"},
    {"models"},
    {"layers", "odeint", "optimizers"},
    {"data", "integrators", "threat"},
    {"geometry", "autodiff", "compiled", "cost"},
    {"noise", "checks", "environment", "figures", "graph", "records", "replicas"},
    {"registry", "_keras", "files", "text"},
]
RANK = {name: rank for rank, step in enumerate(STEPS) for name in step}


def _modules():
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def _top(path):
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def _imported(path):
    """Top-level parts of keras_pde that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "keras_pde":
            yield from (alias.name for alias in node.names if alias.name in RANK)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("keras_pde."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            names = (alias.name.split(".") for alias in node.names)
            yield from (n[1] for n in names if n[0] == "keras_pde" and len(n) > 1)


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    here = _top(path)
    assert here in RANK, f"{here} has no place in the house: give it one in STEPS"
    for other in set(_imported(path)) - {here}:
        assert RANK[other] > RANK[here], f"{here} imports {other}"


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= 400


def test_backends_are_imported_only_where_they_are_chosen():
    if keras.backend.backend() != "jax":
        pytest.skip("shown where TensorFlow may be absent")
    import sys

    assert "torch" not in sys.modules
    for module in pkgutil.walk_packages([str(PACKAGE)], "keras_pde."):
        if not module.name.endswith("tensorflow_hook"):
            importlib.import_module(module.name)


def test_public_names():
    assert set(kp.__all__) == {
        "Report",
        "RobustModel",
        "Threat",
        "analysis",
        "attacks",
        "callbacks",
        "data",
        "evaluate",
        "layers",
        "list_models",
        "load_model",
        "models",
        "objectives",
        "odeint",
        "optimizers",
        "recipes",
        "save_model",
    }
    assert set(kp.objectives.__all__) == {
        "Adversarial",
        "DataTerm",
        "GradientPenalty",
        "MaxGradientPenalty",
        "Objective",
        "Penalty",
        "Plain",
        "Tikhonov",
        "Tulip",
        "get",
    }
    assert set(kp.attacks.__all__) == {
        "FGSM",
        "PGD",
        "Attack",
        "AttackResult",
        "IteratedAttack",
        "MinimalDistance",
        "Target",
        "get",
    }
    assert registry.names("model") == [
        "continuous_net",
        "hamiltonian_net",
        "lenet",
        "mlp",
        "parabolic_net",
        "preact_resnet",
        "resnext34_2x32",
        "second_order_net",
        "small_cnn",
    ]
    assert registry.names("attack") == ["fgsm", "minimal_distance", "pgd"]
    assert registry.names("layer") == [
        "antisymmetric_block",
        "antisymmetric_conv2d",
        "antisymmetric_dense",
        "antisymmetric_rnn",
        "cayley_dense",
        "co_rnn",
        "continuous_block",
        "hamiltonian_block",
        "lipschitz_rnn",
        "parabolic_block",
        "second_order_block",
        "symmetric_conv2d",
        "symmetric_dense",
        "tanh_logits",
        "tv_normalization",
    ]


def _documented():
    for kind in registry.KINDS:
        for entry in registry.entries(kind):
            yield pytest.param(entry.component, id=f"{kind}-{entry.name}")
    for name in ("RobustModel", "evaluate", "odeint", "save_model", "load_model", "list_models"):
        yield pytest.param(getattr(kp, name), id=name)


@pytest.mark.parametrize("component", _documented())
def test_docstrings_name_every_argument(component):
    text = inspect.getdoc(component)
    assert text.splitlines()[0].endswith((".", ":")), "the first line is a sentence"
    arguments = [
        name
        for name, parameter in inspect.signature(component).parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    missing = [name for name in arguments if name not in text]
    # `name` is Keras' own.
    assert [m for m in missing if m != "name"] == []


def test_every_component_can_be_found_by_a_near_name():
    with pytest.raises(ValueError, match=r"unknown attack 'pdg'.*Did you mean 'pgd'"):
        registry.get("attack", "pdg")
    with pytest.raises(ValueError, match="second model named 'mlp'"):
        registry.register("model", "mlp")(lambda: None)
