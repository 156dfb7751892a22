"""One strategy of two logical CPUs, in a process of its own.

TensorFlow fixes its devices when it starts, and explicit collectives fail once a process has
created a second strategy.
"""

import contextlib
import json
import os
import subprocess
import sys
from types import SimpleNamespace

ITEM = SimpleNamespace(params={})  # of tests without cases


def strategy():
    """`MirroredStrategy` on two logical CPUs; once in a process, and first of all in it."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def alone():
    """One device, as a scope and options of `compile`: step by step, which needs no tracing."""
    return contextlib.nullcontext(), {"run_eagerly": True}


def together(strategy):
    """Both replicas, likewise: compiled, as users train."""
    return strategy.scope(), {}


def results(request, argument):
    """What the file of a test, run as a script, prints as JSON in its last line.

    Args:
        request: of the fixture.
        argument: name of the tests' argument with the case; the script gets those that will run.
    """
    cases = {
        item.callspec.params[argument]: None
        for item in request.session.items
        if item.path == request.path and argument in getattr(item, "callspec", ITEM).params
    }
    process = subprocess.run(
        [sys.executable, str(request.path), *cases],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])
