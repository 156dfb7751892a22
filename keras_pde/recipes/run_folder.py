"""The folder of a training: what it holds, and how it survives kills, full disks and rivals."""

import contextlib
import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np

from keras_pde import files
from keras_pde.recipes.recipe import Recipe, load

# Keys of a recipe that are about the trained model.
_AFTERWARDS = ("title", "name", "description", "licence", "caveats", "evaluation")
RECIPE, CHECKPOINT, BEST, RUN = "recipe.toml", "checkpoint.npz", "best.npz", "run.json"
HISTORY = "history.csv"
LOCK = ".lock"
_FILES = (
    RECIPE,
    CHECKPOINT,
    BEST,
    RUN,
    LOCK,
    HISTORY,
    "curves.png",
    "report_*.json",
    "report_*.png",
)
_FOLDERS = ("model", "tensorboard", f".*{files.UNFINISHED}")


def _is_ours(path):
    is_folder = path.is_dir() and not path.is_symlink()
    return any(path.match(name) for name in (_FOLDERS if is_folder else _FILES))


class RunFolder:
    """The files of one training; each is replaced as a whole, so that none is ever half-written.

    recipe.toml      the recipe as it runs
    run.json         commit, versions, hardware, seed, state, one row an epoch
    checkpoint.npz   everything that the next epoch depends on
    best.npz         the weights of the epoch that is kept
    history.csv      the rows alone
    curves.png       loss and accuracies over epochs
    tensorboard/     the same for TensorBoard
    model/           the finished model, as `save_model` writes it
    report_*.json    what `kp.evaluate` found

    Args:
        path: of the folder, which need not exist.
    """

    def __init__(self, path):
        self.path = Path(path).resolve()

    def __truediv__(self, name):
        return self.path / name

    @contextlib.contextmanager
    def locked(self):
        """Within it no other process trains into this folder.

        Raises:
            ValueError: another one does.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(files.locked(self / LOCK, wait=False))
            except BlockingIOError as error:
                raise ValueError(
                    f"Received the run folder {self.path}, into which another process is "
                    "training; expected another one: pass --out."
                ) from error
            for leftover in self.path.glob(f".*{files.UNFINISHED}"):  # of a process that was killed
                shutil.rmtree(leftover)
            yield

    def clear(self) -> None:
        """Deletes the training, so that another one can begin here.

        Raises:
            ValueError: there is something else in it, or no training; nothing was deleted.
        """
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        found = [self.path] if self.path.is_file() else sorted(self.path.iterdir())
        others = [path.name for path in found if not _is_ours(path)]
        if others or not (self / RECIPE).exists():
            raise ValueError(
                f"Received {self.path} to overwrite, with {others or 'no recipe'} in it; expected "
                "a run of `keras-pde train` and nothing else. Move it, or take another folder."
            )
        load(self / RECIPE)  # no other program's file of that name
        with self.locked():
            for path in [path for path in self.path.iterdir() if path.name != LOCK]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def check(self, recipe: Recipe, resume: bool) -> None:
        """Whether the recipe can start or go on here; writes nothing.

        Raises:
            ValueError: to start, there are files in it; to resume, no training or another one.
        """
        if self._holds_epochs():
            if not resume:
                raise ValueError(
                    f"Received the run folder {self.path}, which holds a training; expected an "
                    "empty one, or --resume to go on with it."
                )
            self._check_same(recipe)
        elif resume and not (self / RECIPE).exists():
            raise ValueError(
                f"Received --resume for the run folder {self.path}, which holds no training; "
                "expected one that was started there (without --resume)."
            )
        elif self.path.exists() and (not self.path.is_dir() or self._files()):
            raise ValueError(
                f"Received the run folder {self.path}, which is not empty; expected a new name, so "
                "that nothing of yours is overwritten."
            )

    def start(self, recipe: Recipe, resume: bool) -> None:
        """Claims the folder for a recipe, or checks that it is this recipe's; see `check`.

        What training does not depend on may have changed: a finished run is then measured again.
        """
        self.check(recipe, resume)
        if resume and recipe == load(self / RECIPE):
            return
        self.write(RECIPE, recipe.to_toml().encode())
        if self.state() == "finished":
            self.write_json(RUN, {**self.read_json(RUN), "state": "trained"})

    def _holds_epochs(self):
        return (self / RECIPE).exists() and any(self._files())

    def _files(self):
        """What is here, but for what a training leaves that ended before its first epoch."""
        left = (LOCK, RECIPE) if (self / LOCK).exists() else ()
        return [
            path
            for path in self.path.iterdir()
            if path.name not in left and not path.name.endswith(files.UNFINISHED)
        ]

    def _check_same(self, recipe):
        ours, theirs = _flat(recipe.values), _flat(load(self / RECIPE).values)
        differing = [
            key
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key) != theirs.get(key) and key.split(".")[0] not in _AFTERWARDS
        ]
        if differing:
            changes = ", ".join(f"{k}: {theirs.get(k)!r} -> {ours.get(k)!r}" for k in differing)
            raise ValueError(
                f"Received a recipe that differs from the one in {self.path} ({changes}); a "
                "resumed training goes on unchanged. Pass what the first start got (--limit, "
                "--epochs, --set ...) again, or another --out for a new one."
            )

    def write(self, name, data: bytes) -> None:
        """Replaces a file at once.

        Raises:
            OSError: the disk is full or read-only; the old file stands.
        """
        try:
            files.write(self / name, data)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{self / name} cannot be written ({error.strerror}); what stood there before is "
                "unchanged. Make room, then go on with --resume",
            ) from error

    def draw(self, name, plot) -> None:
        """Replaces a picture, which `plot` draws into the file that it is called with."""
        picture = io.BytesIO()
        plot(path=picture)
        self.write(name, picture.getvalue())

    def write_json(self, name, values) -> None:
        """Replaces a JSON file."""
        self.write(name, (json.dumps(values, indent=1) + "\n").encode())

    def read_json(self, name):
        """The values of a JSON file.

        Raises:
            ValueError: it is empty, cut off, or no such file at all.
        """
        try:
            values = json.loads((self / name).read_text(encoding="utf-8-sig"))
            if isinstance(values, dict):
                return values
            error = f"a {type(values).__name__}"
        except (ValueError, RecursionError) as found:
            error = found
        raise ValueError(
            f"Received {self / name}, which is damaged ({error}); expected what a training wrote "
            "there. Bring back a copy, or train anew in another folder."
        )

    def check_source(self, digest) -> None:
        """Refuses to go on from another model than the one whose digest `run.json` has."""
        before = self.read_json(RUN).get("from") if (self / RUN).exists() else None
        if before not in (None, digest):
            raise ValueError(
                f"Received a run in {self.path} that started from a model with the SHA-256 "
                f"{before}; expected the same file in [model] from, which now has {digest}. Bring "
                "it back, or train anew in another folder."
            )

    def state(self) -> str:
        """What `run.json` says: "training", "stopped", "trained", "finished"; "" without one."""
        if not (self / RUN).exists():
            return ""
        state = self.read_json(RUN).get("state")
        if not isinstance(state, str):
            raise ValueError(
                f"Received {self / RUN} without a state; expected what a training wrote there. "
                "Bring back a copy, or train anew in another folder."
            )
        return state

    def write_arrays(self, name, arrays, **facts) -> None:
        """Replaces a file of arrays, with facts that belong to them."""
        self.write(name, arrays_as_bytes(arrays, **facts))

    def read_arrays(self, name):
        """`(arrays, facts)` of `write_arrays`.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            return read_arrays(self / name)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"Received {self / name}, which is damaged ({error}); delete it to train from the "
                "start, or bring back a copy."
            ) from error


def arrays_as_bytes(arrays, **facts) -> bytes:
    """An archive of arrays and facts, as `RunFolder.read_arrays` reads it."""
    buffer = io.BytesIO()
    named = {f"v{i}": array for i, array in enumerate(arrays)}
    np.savez(buffer, facts=np.array(json.dumps(facts)), **named)
    return buffer.getvalue()


def read_arrays(file):
    """`(arrays, facts)` of a file, or an open one, with what `arrays_as_bytes` made."""
    with np.load(file, allow_pickle=False) as archive:
        facts = json.loads(str(archive["facts"]))
        return [archive[f"v{i}"] for i in range(len(archive.files) - 1)], facts


def _flat(values, prefix=""):
    """Nested tables as dotted keys."""
    if isinstance(values, dict):
        items = values.items()
    elif isinstance(values, list) and any(isinstance(v, dict) for v in values):
        items = enumerate(values)
    else:
        return {prefix: values}
    return {
        k: v
        for key, value in items
        for k, v in _flat(value, f"{prefix}.{key}" if prefix else str(key)).items()
    }
