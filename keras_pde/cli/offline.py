import subprocess
import sys
from pathlib import Path

from keras_pde import offline
from keras_pde.cli._common import add_data_folder, command, say, shown
from keras_pde.cli.train import add_changes, changed
from keras_pde.offline.pack import STARTER
from keras_pde.text import progress_bar


def add(commands, debug, help):
    parser = commands.add_parser(
        "offline",
        help=help,
        description="Packs a recipe, and all that it needs, for a machine with Python and JAX "
        "only; trains there within minutes; makes what comes back into a run.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    command(
        actions,
        debug,
        "probe",
        _probe,
        "print a command that says what a machine has",
        "Prints a command of one line, to be run there; its output is for pack --have.",
    )
    _add_pack(actions, debug)
    _add_run(actions, debug)
    _add_collect(actions, debug)


def _add_pack(actions, debug):
    parser = command(
        actions,
        debug,
        "pack",
        _pack,
        "write a recipe, its data and what a machine lacks as bundles below a size",
        "Writes offline.pyz, bundles.json and bundle.001, ...: copy all of them to one folder "
        "there, in as many turns as it takes, and run python3 offline.pyz run --max-minutes 8 "
        "--out OUT.",
    )
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help="TOML files, on the same data")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--max-mb",
        type=float,
        default=60,
        metavar="MB",
        help="every bundle is smaller than this, in 10^6 bytes (default: %(default)s)",
    )
    parser.add_argument(
        "--have",
        metavar="FILE",
        help="what the machine has: output of the probe, or a package a line; without it, "
        "everything but Python is brought, JAX for CPUs included",
    )
    parser.add_argument(
        "--python", metavar="VERSION", help="its Python, if FILE does not say it (default: this)"
    )
    parser.add_argument(
        "--bring", nargs="+", default=[], metavar="PACKAGE", help="bring these, too"
    )
    parser.add_argument("--resume", metavar="RUN", help="a run that goes on there")
    parser.add_argument(
        "--evaluate",
        action="store_true",
        help="attack the model of --resume there, on test images, in place of training",
    )
    add_changes(parser)
    add_data_folder(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace bundles that are in --out"
    )


def _add_run(actions, debug):
    parser = command(
        actions,
        debug,
        "run",
        _run,
        "train what was packed, on this machine",
        "The same as python3 DIR/offline.pyz run, which needs no keras_pde: see its --help.",
        kept="Finished epochs are kept; the same command with --resume goes on.",
    )
    parser.add_argument("folder", metavar="DIR", help="folder of the bundles")
    parser.add_argument("options", nargs="...", help="options of offline.pyz run")


def _add_collect(actions, debug):
    parser = command(
        actions,
        debug,
        "collect",
        _collect,
        "make what came back into a run",
        "Checks the files that came back and makes a run of them, whose model is loaded, attacked, "
        "published, and trained on like any other's.",
    )
    parser.add_argument("folder", help="folder of what came back")
    parser.add_argument(
        "--out",
        required=True,
        metavar="RUN",
        help="the run's folder: a new one, or that of the run that went on or was attacked there",
    )
    parser.add_argument("--evaluate", action="store_true", help="run the recipe's evaluations now")
    add_data_folder(parser)


def _probe(arguments):
    say(offline.probe())
    print("Run this line there, and save what it prints for pack --have.", file=sys.stderr)


def _pack(arguments):
    stems = [Path(path).stem for path in arguments.recipes]
    if len(set(stems)) < len(stems):
        raise ValueError(f"Received recipes named {stems}; expected different names.")
    manifest = offline.pack(
        {Path(path).stem: changed(path, arguments) for path in arguments.recipes},
        arguments.out,
        have=arguments.have,
        python=arguments.python,
        bring=arguments.bring,
        max_mb=arguments.max_mb,
        resume=arguments.resume,
        evaluate=arguments.evaluate,
        data_dir=arguments.data_dir,
        download=arguments.download,
        overwrite=arguments.overwrite,
        say=say,
    )
    size = sum(part["bytes"] for part in manifest["bundles"]) / 10**6
    resume = " --resume" * bool(arguments.resume and not arguments.evaluate)
    say(
        f"{arguments.out}: {STARTER}, bundles.json and bundles ({len(manifest['bundles'])}), "
        f"{size:.1f} MB. Copy them to one folder of the other machine. There:\n"
        f"  python3 {STARTER} check && python3 {STARTER} run --max-minutes 8 --out OUT{resume}"
    )


def _run(arguments):
    starter = Path(arguments.folder) / STARTER
    if not starter.is_file():
        raise ValueError(
            f"Received the folder {arguments.folder} without {STARTER}; expected what "
            "`keras-pde offline pack` wrote."
        )
    sys.exit(subprocess.call([sys.executable, str(starter), "run", *arguments.options]))


def _collect(arguments):
    with progress_bar() as progress:
        run = offline.collect(
            arguments.folder,
            arguments.out,
            evaluate=arguments.evaluate,
            data_dir=arguments.data_dir,
            download=arguments.download,
            say=say,
            progress=progress,
        )
    state = run.read_json("run.json")["state"]
    recipe, path = shown(run.path / "recipe.toml"), shown(run.path)
    following = {
        "stopped": f"keras-pde offline pack {recipe} --resume {path} --out DIR",
        "trained": f"keras-pde train {recipe} --out {path} --resume",
        "finished": f"keras-pde publish {path}",
    }[state]
    say(f"\nNext:\n  keras-pde show {shown(run.path / 'model')}\n  {following}")
