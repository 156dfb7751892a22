"""What comes back from a machine: few files below a size, whole at each moment."""

import json
import math
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_pde.files import Parts
from keras_pde.optimizers import state
from keras_pde.recipes.run_folder import BEST, RUN, arrays_as_bytes

_OTHERS, _THEIR_BYTES = 2, 300_000  # run.json, curves.png
_LEAVE_OUT = ("", "momentum", "all")  # of the state, in this order


@dataclass(frozen=True)
class Limits:
    """What can be brought back.

    Attributes:
        file_mb: megabytes (10^6 bytes) of a file, at most; at least 0.001.
        files: how many files.
        total_mb: megabytes of all files together.
    """

    file_mb: float = 16
    files: int = 8
    total_mb: float = 64

    def __post_init__(self):
        if not (0.001 <= self.file_mb < math.inf and 0 < self.total_mb < math.inf):
            raise ValueError(
                f"Received limits of {self.file_mb} MB a file and {self.total_mb} MB in all; "
                "expected at least 0.001 MB."
            )
        if self.files <= _OTHERS:
            raise ValueError(
                f"Received a limit of {self.files} files; expected at least {_OTHERS + 1}: run.json"
                ", curves.png and the weights."
            )

    def allow(self, *sizes) -> bool:
        """Whether archives of so many bytes can come back together, cut into files."""
        count = sum(math.ceil(size / self.bytes) for size in sizes)
        return count <= self.files - _OTHERS and sum(sizes) <= self.total_mb * 10**6 - _THEIR_BYTES

    @property
    def bytes(self) -> int:
        """Of a file, at most."""
        return int(self.file_mb * 10**6)


class Parcel:
    """Writes down each epoch for the way back; follows a `Journal`.

        weights-E.npz.001, ...   the weights of epoch E, the kept one, in float16
        state-E.npz.001, ...     what another block needs to go on after epoch E: float32, but the
                                 averaged weights and the momentum, which are float16
        run.json                 the journal, the recipe, sizes and digests of these files

    New files come first, then run.json, which makes them count, then the old ones go: whenever the
    process is ended, run.json and the files that it names are there.

    What the limits do not allow is left out of the state: the momentum first, which then starts
    anew, or all of it.

    Args:
        out: folder for the files.
        limits: `Limits`.
        facts: what run.json says beside the journal's facts, with the recipe's tables.

    Raises:
        ValueError: the folder holds what another training brought; later, not even the weights can
            come back.
    """

    def __init__(self, out, limits, facts):
        self.out, self.limits, self.facts = Path(out), limits, facts
        check_out(self.out, facts["recipe"])
        self.out.mkdir(parents=True, exist_ok=True)
        self._left_out = None  # of the state; not yet known
        self._kept = None  # the kept epoch that is in the parcel, and its parts
        self._parents = [self.out.resolve().parent, self.out]
        for parent in self._parents:  # what a process left that was killed
            for leftover in parent.glob(f"{self._prefix}*"):
                shutil.rmtree(leftover, ignore_errors=True)

    def __call__(self, journal):
        staging = self._stage(journal)
        try:
            files = sorted(staging.iterdir(), key=lambda path: (path.name == RUN, path.name))
            for path in files:
                os.replace(path, self.out / path.name)
            named = {part["file"] for parts in self._written.values() for part in parts}
            for stem in ("weights", "state"):
                for path in self.out.glob(f"{stem}-*.npz.*"):
                    if path.name not in named:
                        path.unlink()
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def rehearse(self, journal) -> float:
        """Seconds of writing; settles what the state has. Nothing is left of it."""
        began = time.monotonic()
        shutil.rmtree(self._stage(journal))
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

    @property
    def _prefix(self):
        return f".{self.out.name}.parcel-"

    def _stage(self, journal):
        """A folder with the files, on the disk of `out`."""
        staging = self._folder()
        try:
            if self._kept is None or self._kept[0] != journal.best:
                epoch = journal.best["epoch"] if journal.best else 0
                weights = _packed_weights(journal)
                self._kept = journal.best, self._cut(staging, f"weights-{epoch}.npz", weights)
            kept = self._kept[1]
            state = self._state(journal, sum(part["bytes"] for part in kept))
            name = f"state-{len(journal.history)}.npz"
            self._written = {"weights": kept, "state": self._cut(staging, name, state)}
            facts = {**self.facts, **journal.facts, "state_without": self._left_out}
            facts = {**facts, **journal.progress_made(), "parts": self._written}
            (staging / RUN).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
            return staging
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise

    def _folder(self):
        """Beside `out`, so that what is unfinished does not come back; within only if need be."""
        for parent in self._parents:
            try:
                staging = Path(tempfile.mkdtemp(prefix=self._prefix, dir=parent))
            except OSError:
                if parent == self.out:
                    raise
                continue
            if parent == self.out or staging.stat().st_dev == self.out.stat().st_dev:
                return staging  # files can be moved from it
            staging.rmdir()

    def _state(self, journal, weights):
        """The state as bytes, with what there is room for; empty for none."""
        tried = _LEAVE_OUT[_LEAVE_OUT.index(self._left_out or "") :]
        for left_out in tried:
            state = b"" if left_out == "all" else _packed_state(journal, left_out)
            if self.limits.allow(weights, len(state)):
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


def check_out(out, recipe):
    """Refuses a folder with what another recipe brought, which would be lost.

    Args:
        out: a folder.
        recipe: the recipe's tables.
    """
    there = {}
    if (out / RUN).is_file():
        there = json.loads((out / RUN).read_text(encoding="utf-8")).get("recipe")
    if there and there != recipe:
        raise ValueError(
            f"Received the folder {out}, which holds what came of another recipe, "
            f"{there.get('title')!r}; expected a new one: pass another --out."
        )


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
    momentum = {id(v) for v in state.momentum(robust.optimizer)}
    values = []
    for variable, value in zip(journal.variables(), journal.values(), strict=True):
        if id(variable) in momentum and left_out == "momentum":
            value = np.zeros((0,), value.dtype)  # starts anew
        elif id(variable) in momentum or id(variable) in averages:
            value = half(value)
        values.append(value)
    return arrays_as_bytes(values)  # without facts, which would grow from epoch to epoch
