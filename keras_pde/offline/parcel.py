"""What comes back from a machine: few files below a size, whole at each moment."""

import errno
import json
import math
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_pde.parts import Parts
from keras_pde.recipes.run_folder import BEST, RUN, arrays_as_bytes
from keras_pde.training import slots

WEIGHTS, STATE = "weights.npz", "state.npz"
_OTHERS = 2  # run.json, curves.png


@dataclass(frozen=True)
class Limits:
    """What can be brought back.

    Attributes:
        file_mb: megabytes (10^6 bytes) of a file, at most.
        files: how many files.
        total_mb: megabytes of all files together.
    """

    file_mb: float = 16
    files: int = 8
    total_mb: float = 64

    def __post_init__(self):
        if not (0 < self.file_mb < math.inf and 0 < self.total_mb < math.inf):
            raise ValueError(
                f"Received limits of {self.file_mb} MB a file and {self.total_mb} MB in all; "
                "expected positive numbers."
            )
        if self.files <= _OTHERS:
            raise ValueError(
                f"Received a limit of {self.files} files; expected at least {_OTHERS + 1}: run.json"
                ", curves.png and the weights."
            )

    def allow(self, *sizes) -> bool:
        """Whether archives of so many bytes can come back together, cut into files."""
        count = sum(math.ceil(size / self.bytes) for size in sizes)
        return count <= self.files - _OTHERS and sum(sizes) <= self.total_mb * 10**6 - 2**20

    @property
    def bytes(self) -> int:
        """Of a file, at most."""
        return int(self.file_mb * 10**6)


class Parcel:
    """Writes down each epoch for the way back; follows a `Journal`.

        weights.npz.001, ...   the weights of the kept epoch, in float16
        state.npz.001, ...     what another block needs to go on: float32, but the averaged weights
                               and the optimizer's momentum, which are float16
        run.json               the journal, the recipe, sizes and digests of these files; comes last

    What the limits do not allow is left out of the state: the momentum first, which then starts
    anew, or all of it.

    Args:
        out: folder for the files.
        limits: `Limits`.
        facts: what run.json says beside the journal's facts.

    Raises:
        ValueError: not even the weights can come back.
    """

    def __init__(self, out, limits, facts):
        self.out, self.limits, self.facts = Path(out), limits, facts
        self.out.mkdir(parents=True, exist_ok=True)
        self._left_out = None  # of the state; not yet known
        self._kept = None  # the kept epoch that is in the parcel, and its parts

    def __call__(self, journal):
        self._write(self.out, journal)

    def rehearse(self, journal) -> float:
        """Seconds of writing; settles what the state has. Nothing is left of it."""
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            self._write(Path(scratch), journal)
        self._kept = None
        return time.monotonic() - began

    def described(self) -> str:
        """A sentence on what comes back."""
        return {
            None: "Nothing was left to train, and nothing new comes back.",
            "": "The weights and the whole state come back after each epoch.",
            "momentum": "The weights and the state come back after each epoch, but the momentum, "
            "for which the limits leave no room: another block begins without it.",
            "all": "The weights come back after each epoch; the limits leave no room for the state "
            "with which another block could go on.",
        }[self._left_out]

    def _write(self, out, journal):
        staging = _beside(out)
        try:
            if self._kept is None or self._kept[0] != journal.best:
                weights = _packed_weights(journal)
                self._kept = journal.best, self._cut(staging, WEIGHTS, weights)
            kept = self._kept[1]
            state = self._state(journal, sum(part["bytes"] for part in kept))
            written = {"weights": kept, "state": self._cut(staging, STATE, state)}
            facts = {**self.facts, **journal.facts, "state_without": self._left_out}
            text = json.dumps({**facts, **journal.progress_made(), "parts": written}, indent=1)
            (staging / RUN).write_text(text + "\n", encoding="utf-8")
            moved = sorted(staging.iterdir(), key=lambda path: (path.name == RUN, path.name))
            for path in moved:
                os.replace(path, out / path.name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _state(self, journal, weights):
        """The state as bytes, with what there is room for; empty for none."""
        tried = ("", "momentum", "all") if self._left_out is None else (self._left_out,)
        for left_out in tried:
            state = b"" if left_out == "all" else _packed_state(journal, left_out)
            if self._left_out is not None or self.limits.allow(weights, len(state)):
                self._left_out = left_out
                return state
        raise ValueError(
            f"Received weights of {weights / 1e6:.1f} MB in float16, and limits of "
            f"{self.limits.files} files of {self.limits.file_mb:g} MB, {self.limits.total_mb:g} MB "
            "in all; expected room for them: raise --return-mb, --return-files or --return-total, "
            "or lower the model's width."
        )

    def _cut(self, folder, stem, data):
        if not data:
            return []
        with Parts(folder, stem, self.limits.bytes) as parts:
            parts.write(data)
        return parts.written


def half(array):
    """The array in float16, if that holds it."""
    if array.dtype != np.float32:
        return array
    with np.errstate(over="ignore"):
        rounded = array.astype("float16")
    return rounded if np.isfinite(rounded).all() else array


def _packed_weights(journal):
    weights = journal.result()
    if journal.best:  # which may be an earlier epoch's
        weights, _ = journal.folder.read_arrays(BEST)
    return arrays_as_bytes([half(np.asarray(a)) for a in weights])


def _packed_state(journal, left_out):
    robust = journal.robust
    averages = robust.averaged.variables if robust.averaged else []
    averages = {id(v) for v in averages}
    momentum = {id(v) for v in slots.momentum(robust.optimizer)}
    values = []
    for variable, value in zip(journal.variables(), journal.values(), strict=True):
        if id(variable) in momentum and left_out == "momentum":
            value = np.zeros((0,), value.dtype)  # starts anew
        elif id(variable) in momentum or id(variable) in averages:
            value = half(value)
        values.append(value)
    return arrays_as_bytes(values)  # without facts, which would grow from epoch to epoch


def _beside(out):
    """A folder on the same disk that does not come back; within `out` only if there is no other."""
    for parent in (out.resolve().parent, out):
        try:
            staging = Path(tempfile.mkdtemp(prefix=".parcel-", dir=parent))
            (staging / "x").touch()
            os.replace(staging / "x", out / ".x")
            (out / ".x").unlink()
            return staging
        except OSError as error:
            if parent == out or error.errno not in (errno.EXDEV, errno.EACCES, errno.EROFS):
                raise
            shutil.rmtree(staging, ignore_errors=True)
