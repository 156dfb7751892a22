"""The command line: the quickstart from end to end, and what happens when something is wrong."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import keras_pde as kp
from keras_pde import cli, quickstart
from keras_pde.evaluation import Report


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a smoke run, and what it printed."""
    folder = tmp_path_factory.mktemp("quickstart")
    lines = []
    small = {**quickstart.SMOKE, "model.width": 4}
    twins = quickstart.twins(small, images=20, epsilon=0.2, weight=0.1)
    recipes = {name: twins[name] for name in ("J0", "J2-Lip")}
    reports = quickstart.run(recipes, folder, say=lines.append)
    return folder, reports, lines


def test_quickstart_trains_attacks_and_writes(finished):
    folder, reports, lines = finished
    assert list(reports) == ["J0", "J2-Lip"]
    for name, by_norm in reports.items():
        assert any(
            line.startswith(f"Saved {folder / name / 'model'}: epoch 1 of 1") for line in lines
        )
        assert {norm: report.count for norm, report in by_norm.items()} == {"l2": 20, "linf": 20}
    for norm in ("l2", "linf"):
        assert (folder / f"error_curve_{norm}.png").read_bytes().startswith(b"\x89PNG")
    assert not any("\n" in line for line in lines)


def test_quickstart_settings_reach_the_twins_that_have_them(finished):
    twins = quickstart.twins({"training.seed": 3}, images=7, epsilon=0.2, weight=0.1)
    objectives = {name: twin.objective[0].arguments for name, twin in twins.items()}
    assert list(objectives) == ["J0", "J1", "J2", "J2-Lip"]
    assert "epsilon" not in objectives["J0"] and "weight" not in objectives["J2"]
    assert {objectives[name]["epsilon"] for name in ("J1", "J2", "J2-Lip")} == {0.2}
    assert objectives["J2-Lip"]["weight"] == 0.1
    for twin in twins.values():
        assert twin.training.seed == 3 and {e.images for e in twin.evaluation} == {7}
    ran = kp.recipes.load(finished[0] / "J2-Lip" / "recipe.toml")
    assert (ran.objective[0].arguments["epsilon"], ran.data.limit) == (0.2, 200)


def test_quickstart_models_load_and_are_the_attacked_ones(finished):
    folder, reports, _ = finished
    sample = kp.data.load("fashion_mnist_sample")
    x, y = sample.x_test[:20], sample.y_test[:20]
    for name, by_norm in reports.items():
        model = kp.load_model(folder / name / "model")
        accuracy = np.mean(model.predict(x, verbose=0).argmax(axis=1) == y)
        assert accuracy == pytest.approx(by_norm["l2"].clean_accuracy)


def test_quickstart_table_has_the_columns_of_the_paper(finished):
    _, reports, _ = finished
    head, _, *rows = quickstart.table(reports).splitlines()
    assert head.split("  ")[0] == "model"
    assert "clean error" in head and "median L2" in head and "median Linf" in head
    assert [row.split()[0] for row in rows] == list(reports)
    assert "L2, J2-Lip / J0: median distance" in quickstart.verdict(reports)


def test_verdict_reports_a_missing_order_honestly(finished):
    _, reports, _ = finished
    backwards = dict(reversed(list(reports.items())))
    chains = [quickstart.verdict(r) for r in (reports, backwards)]
    assert sum("did NOT come out" in chain for chain in chains) >= 1


def test_evaluate_and_show(finished, capsys, tmp_path):
    folder = str(finished[0] / "J2-Lip" / "model")
    curve, report = tmp_path / "curve.png", tmp_path / "report.json"
    options = ["--norm", "l2", "--epsilons", "0.1", "--limit", "10"]
    files = ["--json", str(report), "--plot", str(curve)]
    assert cli.main(["evaluate", folder, *options, *files]) == 0
    assert "l2 robustness on 10 images" in capsys.readouterr().out
    assert Report.from_json(report).epsilons == (0.1,)
    assert curve.exists()
    assert cli.main(["evaluate", folder, *options, "--json", str(report)]) == 1
    assert "exists" in capsys.readouterr().err
    assert cli.main(["show", folder]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"] == "small_cnn"


def test_evaluate_takes_a_keras_file_and_fractions(finished, capsys, tmp_path):
    path = tmp_path / "own.keras"
    kp.load_model(finished[0] / "J0" / "model").save(path)
    command = ["evaluate", str(path), "--epsilons", "8/255", "--limit", "5"]
    assert cli.main(command) == 1
    assert "pass --data" in capsys.readouterr().err
    assert cli.main([*command, "--data", "fashion_mnist_sample"]) == 0
    shown = capsys.readouterr().out
    assert "own.keras, tested on fashion_mnist_sample" in shown and "0.0313725" in shown
    assert cli.main(["show", str(path)]) == 1
    assert "is a file" in capsys.readouterr().err


def test_evaluate_takes_what_is_perturbed_what_succeeds_and_noise(finished, capsys, tmp_path):
    """As the function does, to which it gives them."""
    folder = str(finished[0] / "J0" / "model")
    words = ["--norm", "linf", "--epsilons", "0.05", "--limit", "20", "--success", "misclassified"]
    words += ["--noise", "gaussian=0.2", "salt_and_pepper=0.1"]
    report = tmp_path / "report.json"
    assert cli.main(["evaluate", folder, *words, "--json", str(report)]) == 0
    assert "gaussian            0.2" in capsys.readouterr().out
    images = kp.data.load("fashion_mnist_sample")
    expected = kp.evaluate(
        kp.load_model(folder),
        images.x_test[:20],
        images.y_test[:20],
        epsilons=[0.05],
        noise=[("gaussian", 0.2), ("salt_and_pepper", 0.1)],
    )
    found = Report.from_json(report)
    assert found.noise == expected.noise and len(found.noise) == 2
    assert found.clean_accuracy == expected.clean_accuracy
    assert [r.robust_accuracy for r in found.runs] == [r.robust_accuracy for r in expected.runs]
    for words, message in (
        (["--noise", "pink=1"], "kind of noise"),
        (["--noise", "gaussian"], "Write gaussian=0.1"),
        (["--at", "nothing"], "nothing"),
        (["--success", "luck"], "luck"),
    ):
        with contextlib.suppress(SystemExit):
            assert cli.main(["evaluate", folder, "--epsilons", "0.05", "--limit", "5", *words]) == 1
        assert message in capsys.readouterr().err


def test_evaluate_attacks_the_model_to_keep(tmp_path, capsys):
    """Of a training with averaged weights, the averaged one."""
    robust = kp.RobustModel(kp.models.small_cnn(width=2), kp.objectives.Plain(), average=0.9)
    robust.averaged.set_weights([0 * w for w in robust.averaged.get_weights()])
    robust.save(tmp_path / "averaged.keras")
    sample = kp.data.load("fashion_mnist_sample")
    words = ["--data", "fashion_mnist_sample", "--epsilons", "0.1", "--limit", "20"]
    assert cli.main(["evaluate", str(tmp_path / "averaged.keras"), *words]) == 0
    share = np.mean(sample.y_test[:20] == 0)  # a constant model gives the first class
    assert re.search(rf"0 \(clean\) +{100 * share:.1f} %", capsys.readouterr().out)


def test_nothing_is_overwritten_silently(tmp_path, capsys):
    wanted = tmp_path / "runs"
    assert quickstart.free_folder(wanted) == wanted
    wanted.mkdir()
    assert quickstart.free_folder(wanted) == wanted
    (wanted / "models").mkdir()  # what an interrupted run leaves
    assert quickstart.free_folder(wanted) == wanted
    (wanted / "mine.txt").write_text("kept")
    assert quickstart.free_folder(wanted) == tmp_path / "runs-2"
    (tmp_path / "runs-2").write_text("a file")
    assert quickstart.free_folder(wanted) == tmp_path / "runs-3"
    assert cli.main(["quickstart", "--smoke", "--out", str(wanted)]) == 1
    assert "is not empty" in capsys.readouterr().err
    assert {p.name for p in wanted.iterdir()} == {"mine.txt", "models"}


def test_only_trainings_are_overwritten(finished, tmp_path):
    run = kp.recipes.RunFolder(shutil.copytree(finished[0] / "J0", tmp_path / "J0"))
    (run / "thesis.tex").write_text("mine")
    twins = quickstart.twins(quickstart.SMOKE, images=20)
    with pytest.raises(ValueError, match=r"with \['thesis\.tex'\] in it"):
        quickstart.run(twins, tmp_path, overwrite=True)
    (run / "thesis.tex").unlink()
    before = {path.name for path in run.path.iterdir()}
    with pytest.raises(ValueError, match="a finite length"):  # of the second: nothing is lost
        quickstart.run(quickstart.twins({}, epsilon=float("nan")), tmp_path, overwrite=True)
    assert {path.name for path in run.path.iterdir()} == before
    run.clear()
    assert [path.name for path in run.path.iterdir()] == [".lock"]
    (run / "recipe.toml").write_text("of another program")
    with pytest.raises(ValueError, match="not TOML"):
        run.clear()
    two = {"a": twins["J0"], "b": twins["J0"].replaced({"data.limit": 100})}
    with pytest.raises(ValueError, match="expected the same data for all"):
        quickstart.run(two, tmp_path / "two")
    with pytest.raises(ValueError, match="Did you mean 'epsilon'"):
        quickstart.twins({}, epsilom=0.1)


def test_an_interrupted_run_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    def interrupted(recipes, out, *options, say, progress):
        say("half way")
        raise KeyboardInterrupt

    monkeypatch.setattr(quickstart, "run", interrupted)
    assert cli.main(["quickstart", "--out", str(tmp_path / "run")]) == 130
    assert "are kept" in capsys.readouterr().err


def test_errors_are_one_line_unless_debugged(tmp_path, capsys):
    missing = str(tmp_path / "nothing")
    assert cli.main(["show", missing]) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error and error.startswith("keras-pde: error: ")
    with pytest.raises((OSError, ValueError)):
        cli.main(["show", missing, "--debug"])


@pytest.mark.parametrize("arguments", [["fly"], ["quickstart", "--epochs", "0"], ["evaluate"]])
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2


def test_help_names_every_command(capsys):
    assert cli.main([]) == 2
    shown = capsys.readouterr().out
    for command, help in cli.COMMANDS.items():
        assert f"  {command}" in shown and help.split()[0] in shown
        assert command in cli._parser(command).format_help()
    with pytest.raises(SystemExit) as stop:
        cli.main(["quickstart", "--help"])
    assert stop.value.code == 0
    assert "--smoke" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--help"], ["--version"], [], ["tranin"]])
def test_help_comes_before_keras(words):
    code = """
import sys
sys.argv = ["keras-pde", *sys.argv[1:]]
import keras_pde.cli
try:
    keras_pde.cli.main()
except SystemExit:
    pass
heavy = {"keras", "tensorflow", "jax", "torch", "numpy", "scipy"} & set(sys.modules)
assert not heavy, heavy
if len(sys.argv) == 1:  # what was left out is there when it is asked for
    import keras_pde as kp
    assert kp.evaluate.__name__ == "evaluate" and kp.layers and callable(kp.odeint)
"""
    line = [sys.executable, "-c", code, *words]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_command_says_what_it_has_to_and_no_more():
    line = [sys.executable, "-m", "keras_pde.cli", "list", "--dataset", "mnist"]
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(line, capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == "" and done.stdout


OWN = """
import keras

@keras.saving.register_keras_serializable("own")
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x
"""


def test_classes_of_ones_own_are_imported(tmp_path, monkeypatch, capsys):
    """In another process a model with one of them is known by its file alone."""
    (tmp_path / "my_layers.py").write_text(OWN)
    made = f"""
import my_layers, keras
inputs = keras.Input((28, 28, 1))
z = keras.layers.Dense(10)(keras.layers.Flatten()(my_layers.Twice()(inputs)))
keras.Model(inputs, z).save({str(tmp_path / "own.keras")!r})
"""
    subprocess.run([sys.executable, "-c", made], cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    command = ["evaluate", "own.keras", "--data", "fashion_mnist_sample", "--limit", "8"]
    command += ["--epsilons", "0.1"]
    assert cli.main(command) == 1
    assert "Twice" in capsys.readouterr().err
    assert cli.main([*command, "--import", "my_layers"]) == 0
    assert "linf robustness on 8 images" in capsys.readouterr().out
    assert cli.main([*command, "--import", "my_layer"]) == 1
    assert "no module in" in capsys.readouterr().err
