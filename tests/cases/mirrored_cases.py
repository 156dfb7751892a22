"""One strategy of two logical CPUs, in a process of its own.

TensorFlow fixes its devices when it starts, and explicit collectives fail once a process has
created a second strategy.
"""

import contextlib
import json
import os
import subprocess
import sys


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


def results(file):
    """What a test file, run as a script, prints as JSON in its last line."""
    process = subprocess.run(
        [sys.executable, file],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])
