"""What the tests of offline trainings share: wheels, what runs from bundles, and parcels."""

import shutil
import subprocess
import sys
import zipfile

import pytest
from recipe_cases import toy_recipe

from keras_pde.offline import pack
from keras_pde.offline.parcel import Limits, Parcel


def toy_of(folder, **changes):
    return toy_recipe(folder / "toy.npz", **changes)


def without_wheels(monkeypatch):
    """Nothing is downloaded; the machine is said to have all that is needed."""
    monkeypatch.setattr(sys.modules[pack.__module__], "fetch", lambda *args: ["numpy"])


def wheel(folder, name, version="1.0", needs=()):
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {n}" for n in needs)]
        archive.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(lines) + "\n\n")
        archive.writestr(f"{name}.py", f"version = {version!r}\n")
        archive.writestr(f"{name}-{version}.data/purelib/{name}_more.py", "")
    return path


def start(folder, *arguments):
    """The program in a folder of bundles, as it is started there."""
    return subprocess.run(
        [sys.executable, "-I", str(folder / "offline.pyz"), *arguments],
        capture_output=True,
        text=True,
    )


class Parcels:
    """Several parcels of one training, with room for less and less."""

    def __init__(self, out, recipe):
        self.out, self.facts, self.made = out, {"recipe": recipe.values}, {}

    def add(self, name, size):
        self.made[name] = Parcel(self.out / name, Limits(16, 8, (size + 300_000) / 1e6), self.facts)
        return self.made[name]

    def rehearse(self, journal):
        staging = self.add("all", 10**6)._stage(journal)
        weights, state = (
            sum(path.stat().st_size for path in staging.glob(f"{stem}-*"))
            for stem in ("weights", "state")
        )
        shutil.rmtree(staging)
        self.add("some", weights + state - 1)
        self.add("little", weights + 1)
        with pytest.raises(ValueError, match="expected room for them: raise --return-mb"):
            self.add("none", weights - 1).rehearse(journal)
        del self.made["none"]
        return sum(parcel.rehearse(journal) for parcel in self.made.values())

    def __call__(self, journal):
        for parcel in self.made.values():
            parcel(journal)
