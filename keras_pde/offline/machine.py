"""What another machine has, and the wheels that it lacks."""

import email
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

JAX = "jax>=0.10"
_OLDEST_GLIBC = 17  # 2.17, of manylinux2014

# One line for a shell, and only the standard library: it runs where nothing of ours is.
_PROBE = (
    "import importlib.metadata as m,json,os,platform as p,shutil,subprocess as s,sys;"
    "r=s.run([sys.executable,'-c',"
    "'import jax;print([(d.device_kind,(d.memory_stats() or {}).get(\\x22bytes_limit\\x22))"
    " for d in jax.devices()])'],capture_output=True,text=True);"
    "h={d.metadata['Name'].lower().replace('_','-'):d.version"
    " for d in m.distributions() if d.metadata['Name']};"
    "print(json.dumps({'python':p.python_version(),'system':p.system(),'machine':p.machine(),"
    "'glibc':p.libc_ver()[1],'cores':os.cpu_count(),"
    "'memory_gb':round(os.sysconf('SC_PAGE_SIZE')*os.sysconf('SC_PHYS_PAGES')/1e9,1),"
    "'disk_gb':round(shutil.disk_usage('.').free/1e9,1),"
    "'devices':(r.stdout or r.stderr).strip().splitlines()[-1:],"
    "'missing':[n for n in NEEDED if n not in h],'packages':h}))"
)


def probe() -> str:
    """A command of one line that prints what a machine has, as `Machine.read` takes it.

    Example:

    >>> from keras_pde import offline
    >>> print(offline.probe())
    """
    needed = json.dumps(sorted(_closure())).replace('"', "'")
    return f'python3 -c "{_PROBE.replace("NEEDED", needed)}"'


@dataclass(frozen=True)
class Machine:
    """A Linux machine without a network.

    Attributes:
        python: version, such as "3.12".
        architecture: "x86_64" or "aarch64".
        glibc: minor version of its C library; wheels for older ones work there.
        packages: canonical name -> version of what is installed, "" if it is not known.
    """

    python: str
    architecture: str
    glibc: int
    packages: dict[str, str]

    @classmethod
    def read(cls, file=None, python=None) -> "Machine":
        """The machine of a file: what `probe` printed, or a list of packages.

        Args:
            file: JSON from `probe`, or text with a package a line (`name`, `name==version`, or
                columns as pip prints them); `None` for a machine with nothing but Python.
            python: its Python version; needed for a list, default that of the probe or ours.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is neither, or the machine is no Linux.
        """
        ours = f"{sys.version_info.major}.{sys.version_info.minor}"
        text = "" if file is None else Path(file).read_text(encoding="utf-8")
        found = {"python": ours, "machine": "x86_64", "glibc": "2.28", "packages": {}}
        start = text.find("{")
        if text.lstrip().startswith("["):  # pip list --format=json
            packages = {canonicalize_name(p["name"]): p["version"] for p in json.loads(text)}
        elif start >= 0:  # other output may stand before it
            try:
                del found["packages"]
                found |= json.JSONDecoder().raw_decode(text[start:])[0]
                if found.get("system", "Linux") != "Linux":
                    raise ValueError(f"its system is {found['system']}; expected Linux")
                packages = {canonicalize_name(k): str(v) for k, v in found["packages"].items()}
            except (ValueError, AttributeError, KeyError) as error:
                raise ValueError(
                    f"Received {file}, which is not what the probe prints ({error}); run "
                    "`keras-pde offline probe` for its command."
                ) from error
        else:
            lines = map(str.strip, text.splitlines())
            packages = dict(_listed(line) for line in lines if _is_entry(line))
            if file is not None and not packages:
                raise ValueError(
                    f"Received {file} without packages; expected a name a line, or the probe's "
                    "output."
                )
        version = python or found["python"]
        short = re.match(r"3\.(\d+)", version)
        if short is None or int(short[1]) < 11:
            raise ValueError(f"Received the Python version {version!r}; expected 3.11 or newer.")
        glibc = re.fullmatch(r"2\.(\d+).*", found["glibc"])
        minor = int(glibc[1]) if glibc else _OLDEST_GLIBC
        return cls(short[0], found["machine"], minor, packages)

    def has(self, requirement: Requirement) -> bool:
        """Whether a package is there in a version that will do; an unknown version will."""
        version = self.packages.get(canonicalize_name(requirement.name))
        return version is not None and (
            not version or requirement.specifier.contains(version, prereleases=True)
        )

    def markers(self) -> dict[str, str]:
        """What decides which requirements of a package are about this machine."""
        return {
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "sys_platform": "linux",
            "platform_system": "Linux",
            "platform_machine": self.architecture,
            "os_name": "posix",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
        }

    def download_options(self) -> list[str]:
        """Options with which `pip download` takes wheels for it."""
        tags = [f"manylinux_2_{n}" for n in range(self.glibc, _OLDEST_GLIBC - 1, -1)]
        tags += ["manylinux2014", "manylinux2010", "manylinux1"]
        platforms = [f"--platform={tag}_{self.architecture}" for tag in tags]
        return ["--implementation=cp", f"--python-version={self.python}", *platforms]


def fetch(machine: Machine, folder: Path, bring=(), say=print) -> list[str]:
    """Downloads the wheels that a machine lacks into a folder.

    Args:
        machine: where they are for.
        folder: an empty one.
        bring: more requirements, such as "optax".
        say: function of a line of text.

    Returns:
        The names of all packages that training there needs, of those that it has and of these.

    Raises:
        ValueError: it has another JAX than is needed, or a wheel cannot be had.
    """
    jax = Requirement(JAX)
    if "jax" in machine.packages and not machine.has(jax):
        raise ValueError(
            f"Received a machine with jax {machine.packages['jax']}; expected {JAX}. Its "
            "accelerator's plugin must fit, so no other one is put over it: pass --bring with jax "
            "and the plugin, or update it there."
        )
    pending = [Requirement(text) for text in (*_requirements(), *bring)]
    found: dict[str, str] = {}
    needed = set()
    while pending:
        requirement = pending.pop(0)
        name = canonicalize_name(requirement.name)
        needed.add(name)
        if name in found:
            if not requirement.specifier.contains(found[name] or "0", prereleases=True):
                raise ValueError(
                    f"Received requirements of {name} that differ: {found[name]} was taken, which "
                    f"is not {requirement.specifier}. Pass --bring {name}==VERSION."
                )
            continue
        if machine.has(requirement) and str(requirement) not in bring:
            continue
        wheel = _download(requirement, machine, folder)
        found[name], needs = _described(wheel)
        say(f"{wheel.name}: {wheel.stat().st_size} bytes")
        pending += [r for r in needs if _applies(r, machine.markers(), requirement.extras)]
    return sorted(needed)


def _requirements():
    """What `keras_pde` needs on JAX, as its own metadata say."""
    try:
        stated = importlib.metadata.requires("keras_pde") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(
            "Received keras_pde from a folder; expected it to be installed, since its metadata say "
            "what it needs: pip install -e ."
        ) from error
    parsed = map(Requirement, stated)
    return [str(r) for r in parsed if not r.marker and r.name != "tensorflow"] + [JAX]


def _closure():
    """The names of all packages that these need in turn, as far as they are installed here."""
    names, pending = set(), [Requirement(text) for text in _requirements()]
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        if name in names:
            continue
        names.add(name)
        try:
            needs = map(Requirement, importlib.metadata.requires(name) or [])
        except importlib.metadata.PackageNotFoundError:
            continue
        pending += [r for r in needs if _applies(r, {}, requirement.extras)]
    return names


def _applies(requirement, markers, extras):
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({**markers, "extra": e}) for e in (*extras, ""))


def _download(requirement, machine, folder):
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", scratch]
        wanted = f"{requirement.name}{requirement.specifier}"
        done = subprocess.run(
            [*command, *machine.download_options(), wanted], capture_output=True, text=True
        )
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            last = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise ValueError(
                f"Received the requirement {wanted} for Python {machine.python} on "
                f"{machine.architecture}, which pip cannot bring ({last}); expected a wheel. If "
                "the machine has it, name it in the file for --have."
            )
        return wheels[0].rename(folder / wheels[0].name)


def _described(wheel):
    """Version and requirements of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        message = email.message_from_bytes(archive.read(name))
    return message["Version"], list(map(Requirement, message.get_all("Requires-Dist") or []))


def _is_entry(line):
    return bool(re.match(r"[A-Za-z0-9]", line)) and not re.match(r"package\s+version", line.lower())


def _listed(line):
    name, version = re.match(r"([\w.-]+)\s*(?:==)?\s*([\w.+!-]*)", line).groups()
    return canonicalize_name(name), version
