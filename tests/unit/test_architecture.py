"""The house: who may import whom, what is public, and what every docstring must say.

`python tests/unit/test_architecture.py` writes `docs/architecture.md` anew.
"""

import ast
import graphlib
import importlib
import inspect
import pkgutil
from pathlib import Path

import keras
import pytest
from public_cases import public

import keras_pde as kp
from keras_pde import registry

PACKAGE = Path(kp.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"

# Imports point only downwards; modules of one step do not import each other.
STEPS = [
    {"cli"},
    {"offline", "quickstart", "tuner"},
    {"recipes"},
    {"hub"},
    {"evaluation"},
    {"callbacks"},
    {"analysis"},
    {"training"},
    {"objectives"},
    {"attacks"},
    {"models"},
    {"layers", "optimizers"},
    {"odeint"},
    {"data", "integrators", "threat"},
    {"geometry", "autodiff", "compiled", "cost"},
    {"noise", "checks", "environment", "figures", "graph", "records", "replicas"},
    {"registry", "_keras", "calls", "files", "tensorflow_twice", "text"},
]
RANK = {name: rank for rank, step in enumerate(STEPS) for name in step}


def _modules():
    face = (PACKAGE / "__init__.py", PACKAGE / "_names.py")
    return sorted(p for p in PACKAGE.rglob("*.py") if p not in face)


def _top(path):
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def _name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {_name(path): path for path in PACKAGE.rglob("*.py")}


def _imported(path):
    """Files of keras_pde that a file imports, anywhere in it, by their dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "keras_pde":
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in FILES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    here = _top(path)
    assert here in RANK, f"{here} has no place in the house: give it one in STEPS"
    tops = {name.split(".")[1] for name in _imported(path) if "." in name}
    for other in tops - {here}:
        assert RANK[other] > RANK[here], f"{here} imports {other}"


def test_no_file_imports_itself_in_a_circle():
    circles = graphlib.TopologicalSorter({n: {*_imported(p)} - {n} for n, p in FILES.items()})
    assert list(circles.static_order())


def page() -> str:
    """`docs/architecture.md`."""
    lines = [
        "# The house",
        "",
        "Rooms of the package, from the roof to the ground. Imports point only downwards; rooms of",
        "one floor do not import each other, and within a room no files import each other in a",
        "circle. `tests/unit/test_architecture.py` enforces it and writes this page.",
        "",
        "| floor | room | what it is |",
        "|---|---|---|",
    ]
    for floor, rooms in enumerate(reversed(STEPS)):
        for room in sorted(rooms):
            file = FILES[f"keras_pde.{room}"]
            about = ast.get_docstring(ast.parse(file.read_text())).splitlines()[0]
            shown = f"{room}/" if file.name == "__init__.py" else f"{room}.py"
            lines.append(f"| {floor} | `{shown}` | {about.replace('|', '&#124;')} |")
    table, lines = lines[:8], lines[8:]
    return "\n".join([*table, *reversed(lines)]) + "\n"


def test_the_page_shows_the_house():
    assert PAGE.read_text() == page(), "python tests/unit/test_architecture.py writes it anew"


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= 350


# One loop whose parts share most of its names: the controller of an adaptive method.
LONG = {"keras_pde.odeint.adaptive.solve"}


def _body(function):
    """Its lines, without signature and docstring."""
    text = isinstance(function.body[0], ast.Expr) and isinstance(
        function.body[0].value, ast.Constant
    )
    first = function.body[1 if text and len(function.body) > 1 else 0]
    return function.end_lineno - first.lineno + 1


@pytest.mark.parametrize("name", FILES)
def test_functions_stay_short(name):
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.FunctionDef) and f"{name}.{node.name}" not in LONG:
            assert _body(node) <= 60, node.name


def test_backends_are_imported_only_where_they_are_chosen():
    if keras.backend.backend() != "jax":
        pytest.skip("shown where TensorFlow may be absent")
    import sys

    assert "torch" not in sys.modules
    for module in pkgutil.walk_packages([str(PACKAGE)], "keras_pde."):
        if "tensorflow_" not in module.name:
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
        "hub",
        "layers",
        "list_models",
        "load_model",
        "models",
        "objectives",
        "odeint",
        "offline",
        "optimizers",
        "recipes",
        "save_model",
        "tuner",
    }
    assert set(dir(kp)) - set(kp.__all__) == {"__all__", "__doc__", "__version__"}
    assert kp.tuner.search and kp.offline.pack, "what is imported only when asked for"
    with pytest.raises(AttributeError, match="no attribute 'tunr'"):
        kp.tunr  # noqa: B018
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
        "neural_ode",
        "parabolic_block",
        "second_order_block",
        "symmetric_conv2d",
        "symmetric_dense",
        "tanh_logits",
        "tv_normalization",
    ]


PUBLIC = public()
FUNCTIONS = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)}


def _arguments(component):
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(component).parameters.values()
    return [p.name for p in parameters if p.kind not in kinds]


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_name_every_argument(name):
    text = inspect.getdoc(PUBLIC[name])
    assert text.splitlines()[0].endswith((".", ":")), "the first line is a sentence"
    missing = [argument for argument in _arguments(PUBLIC[name]) if argument not in text]
    # `name` is Keras' own.
    assert [m for m in missing if m != "name"] == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_are_annotated(name):
    signature = inspect.signature(FUNCTIONS[name])
    assert signature.return_annotation is not signature.empty
    bare = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
    assert bare == []


def test_every_component_can_be_found_by_a_near_name():
    with pytest.raises(ValueError, match=r"unknown attack 'pdg'.*Did you mean 'pgd'"):
        registry.get("attack", "pdg")
    with pytest.raises(ValueError, match="second model named 'mlp'"):
        registry.register("model", "mlp")(lambda: None)


if __name__ == "__main__":
    PAGE.write_text(page())
