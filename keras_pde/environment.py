"""What a published number must say about the machine and the versions it was measured with."""

import datetime
import importlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import keras


def describe() -> dict[str, str | int]:
    """Versions, hardware and date, as plain values for JSON."""
    backend = keras.backend.backend()
    packages = ("keras_pde", "keras", backend, "numpy")
    return {
        **{name: version(name) for name in packages},
        "python": platform.python_version(),
        "backend": backend,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "devices": ", ".join(_devices(backend)),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def version(package: str) -> str:
    """The installed version of a distribution."""
    if package in ("keras_pde", "keras"):  # from a clone, a nightly: no distribution of the name
        return importlib.import_module(package).__version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed as a package"


COMMIT = "COMMIT"  # file of a copy of the package, with the commit of the clone that it is from


def commit() -> str:
    """The commit of the clone that the package is imported from, "+" if files differ from it."""
    folder = Path(__file__).parent
    if (folder / COMMIT).is_file():
        return (folder / COMMIT).read_text(encoding="utf-8").strip()
    git = ["git", "-C", str(folder)]
    try:
        _output([*git, "ls-files", "--error-unmatch", Path(__file__).name])  # not a parent's clone
        name = _output([*git, "rev-parse", "HEAD"])
        changed = _output([*git, "status", "--porcelain", "--untracked-files=no", str(folder)])
    except (OSError, subprocess.SubprocessError):
        return "not in a clone"
    return name + "+" * bool(changed)


def _output(command):
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _devices(backend):
    if backend != "torch":
        return keras.distribution.list_devices()
    import torch  # for which Keras has no such list

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return names or ["cpu:0"]


def _processor():
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
