"""Where a recipe is trained: on one device, on several, or on those of several processes."""

import contextlib
import functools
import os
from dataclasses import dataclass

import keras
import numpy as np

_BACKEND = keras.backend.backend()
# Keras' own names, of `keras.distribution.initialize`.
_ADDRESSES, _PROCESSES, _PROCESS = (
    f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
)


@dataclass(frozen=True)
class Devices:
    """The devices that share each batch of a training; by default one.

    Attributes:
        count: devices of all processes.
        distribution: `tf.distribute.MirroredStrategy`, `keras.distribution.DataParallel` or `None`.
        process: number of this process.
        processes: how many processes train together.
    """

    count: int = 1
    distribution: object = None
    process: int = 0
    processes: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.process == 0

    def scope(self):
        """Within it variables are made for, and batches are shared by, all devices."""
        return self.distribution.scope() if self.distribution else contextlib.nullcontext()

    def check_batch(self, size) -> None:
        """Refuses a batch that cannot be cut into equal shares.

        Raises:
            ValueError: `size` is no multiple of the number of devices.
        """
        below = size - size % self.count
        if below != size:
            near = " or ".join(str(n) for n in (below, below + self.count) if n)
            raise ValueError(
                f"Received batches of {size} images for {self.count} devices; expected equal "
                f"shares: set training.batch_size to {near}."
            )

    def share(self, size) -> slice:
        """This process's rows of so many."""
        own = size // self.processes
        return slice(self.process * own, (self.process + 1) * own)

    def first_does(self, work, *args) -> None:
        """Runs `work(*args)` on the first process; the others wait for it, and fail if it does.

        Raises:
            RuntimeError: on the others, if it failed.
        """
        error = None
        if self.first:
            try:
                work(*args)
            except Exception as caught:
                error = caught
        if self.agree(error is None):
            return
        raise error or RuntimeError("The first process stopped with an error, see its output.")

    def agree(self, value: bool) -> bool:
        """The first process's value, on all."""
        if self.processes == 1:
            return value
        from jax.experimental import multihost_utils

        return bool(multihost_utils.broadcast_one_to_all(np.array(value)))


ONE_DEVICE = Devices()


def find(wanted: int | str | None = None) -> Devices:
    """The devices of a training. Call it before anything is computed: devices are fixed then.

    Args:
        wanted: number of devices of this process (GPUs if there are any, else parts of the CPU);
            "auto" for all GPUs, and all devices where several processes train together; `None`
            for one device.

    Raises:
        ValueError: there are not so many, computation has begun, or the backend cannot do it.

    Example:

    >>> devices = find("auto")
    >>> with devices.scope():
    ...     model = keras_pde.models.create("small_cnn", input_shape=(28, 28, 1), num_classes=10)
    """
    if wanted not in (None, "auto") and (not isinstance(wanted, int) or wanted < 1):
        raise ValueError(
            f'Received devices={wanted!r}; expected a positive number, "auto" or None.'
        )
    _check_environment(wanted)
    if wanted is None or (wanted == 1 and not _is_joint()):
        return ONE_DEVICE
    return _FINDERS[_BACKEND](wanted)


def _is_joint():
    return os.environ.get(_PROCESSES, "1") != "1"


def _check_environment(wanted):
    """Refuses several processes where they would train apart, each by itself."""
    variable = next((name for name in ("TF_CONFIG", _PROCESSES) if name in os.environ), None)
    if _BACKEND != "jax" and (variable == "TF_CONFIG" or _is_joint()):
        raise ValueError(
            f"Received the environment variable {variable}, of several machines, on the backend "
            f"{_BACKEND!r}; Keras 3 trains over several machines on JAX only: set "
            f"KERAS_BACKEND=jax, or unset {variable}."
        )
    if _is_joint() and wanted is None:
        raise ValueError(
            f"Received {_PROCESSES}={os.environ[_PROCESSES]} but no number of devices; expected "
            "--devices auto, or unset it to train on one device."
        )
    missing = [name for name in (_ADDRESSES, _PROCESSES, _PROCESS) if name not in os.environ]
    if _is_joint() and missing:
        raise ValueError(f"Received {_PROCESSES} without {' and '.join(missing)}; expected both.")


def _too_few(wanted, found, kind, started):
    hint = " They are fixed now: ask for more before anything is computed." if started else ""
    return ValueError(
        f"Received devices={wanted}; expected at most {found}: the {kind}s here.{hint}"
    )


def _tensorflow(wanted):
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if wanted == "auto":
        wanted = max(1, len(gpus))
    if wanted == 1:
        return ONE_DEVICE
    if not gpus:
        _split_cpu(wanted)
    elif wanted > len(gpus):
        raise _too_few(wanted, len(gpus), "GPU", started=False)
    return Devices(wanted, _mirrored("GPU" if gpus else "CPU", wanted))


def _split_cpu(wanted):
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * wanted
    try:
        if tf.config.get_logical_device_configuration(cpu) != parts:
            tf.config.set_logical_device_configuration(cpu, parts)
    except RuntimeError:
        there = len(tf.config.list_logical_devices("CPU"))
        if there < wanted:
            raise _too_few(wanted, there, "CPU device", started=True) from None


@functools.cache
def _mirrored(kind, count):
    """Once a process: after a second strategy, explicit collectives fail."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in range(count)])


def _jax(wanted):
    import jax

    if wanted != "auto":
        with contextlib.suppress(RuntimeError):  # JAX has started: with the devices it has
            jax.config.update("jax_num_cpu_devices", wanted)
    if _is_joint() and not jax.distributed.is_initialized():
        _join()
    local = jax.local_devices()
    kind = {"cpu": "CPU device"}.get(local[0].platform, local[0].platform.upper())
    if wanted == "auto":
        wanted = len(local) if kind != "CPU device" or _is_joint() else 1
    if wanted > len(local):
        raise _too_few(wanted, len(local), kind, started=kind == "CPU device")
    processes = range(jax.process_count())
    if wanted * len(processes) == 1:
        return ONE_DEVICE
    # A process's shares of a batch lie side by side, in the order of the processes.
    chosen = [[d for d in jax.devices() if d.process_index == p][:wanted] for p in processes]
    if any(len(own) != wanted for own in chosen):
        raise ValueError(
            f"Received processes with {[len(own) for own in chosen]} devices; expected the same "
            "number in each: pass --devices N."
        )
    names = [f"{d.platform}:{d.id}" for own in chosen for d in own]
    # Keras can shard a `tf.data.Dataset` only: `Batches` gives each process its own rows.
    parallel = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
    return Devices(len(names), parallel, jax.process_index(), len(processes))


def _join():
    """What `keras.distribution.initialize` does, with other time limits."""
    import jax
    from jax.experimental import multihost_utils

    # JAX's notice of preemption would swallow the signal that ends a process.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            os.environ[_ADDRESSES].split(",")[0],
            int(os.environ[_PROCESSES]),
            int(os.environ[_PROCESS]),
            # Processes part after the last common step, so one that leaves alone has failed: the
            # others shall not wait for JAX's five minutes.
            shutdown_timeout_seconds=15,
        )
    except RuntimeError as error:
        raise ValueError(
            f"Received {_PROCESSES}={os.environ[_PROCESSES]}, but the processes cannot be joined "
            f"({error}). Join them before anything is computed, with one {_ADDRESSES} that all "
            "reach."
        ) from error
    # The first common step must begin within 30 seconds everywhere; those after it may wait long.
    multihost_utils.sync_global_devices("joined")


def _torch(wanted):
    raise ValueError(
        f"Received devices={wanted!r} on the backend 'torch'; recipes train on TensorFlow and JAX."
    )


_FINDERS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
