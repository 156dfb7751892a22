"""Recipes on two devices, and on those of two processes, equal one device.

Backends fix their devices when they start, so this file trains on them in processes of its own:
`python tests/end_to_end/test_devices.py FOLDER two|joint`.
"""

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from double_precision import double_precision
from keras import layers
from recipe_cases import BACKEND, quietly, recipe, registered

import keras_pde as kp
from keras_pde import recipes
from keras_pde.recipes import devices
from keras_pde.recipes.run_folder import CHECKPOINT, RUN

# name -> (what differs in the recipe, precision). Signs amplify rounding: float64 there.
CASES = {
    "smooth": (
        {
            "objective": {"name": "tulip", "epsilon": 0.1, "weight": 0.1},
            "training": {"average": 0.9, "label_smoothing": 0.1},
        },
        "float32",
    ),
    # Noise is a function of an image's place in the whole batch: each device draws its own.
    "random": (
        {
            "objective": {
                "name": "adversarial",
                "norm": "linf",
                "epsilon": 0.1,
                "steps": 2,
                "random_start": True,
            },
            "data": {"crop": 1, "flip": True, "cutout": 2},
        },
        "float64",
    ),
}


def network(input_shape, num_classes, seed):
    """Convolution and batch normalization; no dropout, whose masks replicas share."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(input_shape)
    x = layers.Conv2D(2, 3, activation="tanh")(inputs)
    x = layers.Flatten()(kp.layers.batch_norm()(x))
    return keras.Model(inputs, layers.Dense(num_classes)(x))


DEVICES = {"one": None, "two": 2, "joint": "auto"}


def case(folder, name):
    """Eight steps of eight images."""
    changes, precision = CASES[name]
    made = recipe(
        **{
            "model": {"name": "devices"},
            "optimizer": {"name": "sgd", "momentum": 0.9},
            "validation": {"steps": 2, "images": 5},
            **changes,
            "data": {"name": str(folder / "toy.npz"), "validation": 9, **changes.get("data", {})},
            "training": {"epochs": 2, "batch_size": 8, **changes.get("training", {})},
        }
    )
    # No recipe may ask for float64, which accelerators do not have.
    training = dataclasses.replace(made.training, precision=precision)
    return dataclasses.replace(made, training=training)


def train(folder, name, kind, say=quietly, **options):
    made, out = case(folder, name), folder / f"{kind}_{name}"
    options = {"evaluate": False, "say": say, "devices": DEVICES[kind], **options}
    double = made.training.precision == "float64" and BACKEND == "jax"  # which is float32 else
    with double_precision() if double else contextlib.nullcontext():
        recipes.train(made, out, **options)


def refusal(call):
    """The error's type and message."""
    try:
        call()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"


def main(folder, kind):
    """On many devices; the first training is stopped and goes on."""
    said = []
    train(folder, "smooth", kind, said.append, max_minutes=0)
    train(folder, "smooth", kind, said.append, resume=True)
    train(folder, "random", kind, said.append)
    refusals = {"folder": refusal(lambda: train(folder, "smooth", kind))}
    if kind == "two":
        smooth = case(folder, "smooth")
        for key, value in REFUSED.items():
            changed = smooth.replaced(value)
            out = folder / f"refused_{key}"
            refusals[key] = refusal(lambda c=changed, o=out: recipes.train(c, o, devices=2))
        refusals["more"] = refusal(lambda: devices.find(3))
    print(json.dumps({"refusals": refusals, "said": said}))


# What two devices cannot share, and on TensorFlow what Keras cannot do there.
REFUSED = {
    "batch_size": {"training.batch_size": 9},
    **(
        {
            "clipping": {"optimizer.clipnorm": 1.0},
            "schedule_free": {"optimizer": {"name": "schedulefreeadamw"}},
        }
        if BACKEND == "tensorflow"
        else {}
    ),
}
if not hasattr(keras.optimizers, "ScheduleFreeAdamW"):  # Keras 3.12
    REFUSED.pop("schedule_free", None)
REASONS = {
    "batch_size": "set training.batch_size to 8 or 10",
    "clipping": "Create the optimizer without it",
    "schedule_free": "Use another, such as AdamW",
}


def start(folder, kind, **environment):
    return subprocess.Popen(
        [sys.executable, __file__, str(folder), kind],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def one(folder):
    with registered("devices", network):
        for name in CASES:
            train(folder, name, "one")


@pytest.fixture(scope="module")
def two(folder):
    """What one process with two devices returned."""
    return [finished(start(folder, "two"))]


@pytest.fixture(scope="module")
def joint(folder):
    """What two processes with a device each returned."""
    if BACKEND != "jax":
        pytest.skip("Keras trains over several processes on JAX")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    joined = {
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": address,
        "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
    }
    processes = [
        start(folder, "joint", KERAS_DISTRIBUTION_PROCESS_ID=str(i), **joined) for i in (0, 1)
    ]
    return [finished(process) for process in processes]


def state(run):
    return run.read_arrays(CHECKPOINT)[0]


@pytest.mark.parametrize("kind", ["two", "joint"])
@pytest.mark.parametrize("name", CASES)
def test_many_devices_equal_one(folder, one, name, kind, request):
    said = request.getfixturevalue(kind)[0]["said"]
    assert sum("as --max-minutes says" in line for line in said) == 1
    alone, many = (recipes.RunFolder(folder / f"{k}_{name}") for k in ("one", kind))
    assert many.read_json(RUN)["devices"] == 2
    assert len(state(many)) == len(state(alone)) > 10  # weights, averages, momenta
    for a, b in zip(state(many), state(alone), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    for a, b in zip(many.read_json(RUN)["history"], alone.read_json(RUN)["history"], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["val_robust_accuracy"] == b["val_robust_accuracy"]


def test_one_process_speaks_and_an_error_stops_all(joint):
    first, second = joint
    assert any(line.startswith("epoch 2/2") for line in first["said"])
    assert second["said"] == []
    assert "holds a training" in first["refusals"]["folder"]
    assert "The first process stopped" in second["refusals"]["folder"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_before_there_is_a_folder(folder, two, name):
    message = two[0]["refusals"][name]
    assert message.startswith("ValueError: Received") and REASONS[name] in message
    assert not (folder / f"refused_{name}").exists()


def test_more_devices_than_there_are(two):
    message = two[0]["refusals"]["more"]
    assert "expected at most 2" in message and "before anything is computed" in message


@pytest.mark.parametrize("wanted", [0, -1, "all", 1.5])
def test_no_number_of_devices(wanted):
    with pytest.raises(ValueError, match=r'a positive number, "auto" or None'):
        devices.find(wanted)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"TF_CONFIG": "{}"}, None if BACKEND == "jax" else "on JAX only"),
        (
            {"KERAS_DISTRIBUTION_NUM_PROCESSES": "2"},
            "--devices auto" if BACKEND == "jax" else "on JAX only",
        ),
        ({"KERAS_DISTRIBUTION_NUM_PROCESSES": "1"}, None),
    ],
)
def test_processes_that_would_train_apart(monkeypatch, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if message is None:
        assert devices.find() is devices.ONE_DEVICE
        return
    with pytest.raises(ValueError, match=message):
        devices.find()


@pytest.mark.skipif(BACKEND != "jax", reason="about processes on JAX")
def test_processes_want_an_address(monkeypatch):
    monkeypatch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", "2")
    with pytest.raises(ValueError, match=r"without KERAS_DISTRIBUTION_JOB_ADDRESSES and"):
        devices.find("auto")


def test_each_process_takes_its_own_rows():
    shares = [devices.Devices(4, None, process, 2).share(8) for process in (0, 1)]
    assert [list(range(8)[rows]) for rows in shares] == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.skipif(BACKEND == "torch", reason="recipes train on TensorFlow and JAX")
def test_without_accelerators_auto_is_one_device():
    assert devices.find("auto").count == max(1, _accelerators())


def _accelerators():
    import keras

    return sum("cpu" not in name.lower() for name in keras.distribution.list_devices())


if __name__ == "__main__":
    with registered("devices", network):
        main(Path(sys.argv[1]), sys.argv[2])
