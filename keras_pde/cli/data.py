from keras_pde import data as datasets
from keras_pde.cli._common import add_data_folder, command, say


def add(commands, debug, help):
    parser = commands.add_parser(
        "data",
        help=help,
        description="Data sets on this machine, and packs of them.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_list(actions, debug)
    _add_pack(actions, debug)
    _add_unpack(actions, debug)


def _add_list(actions, debug):
    parser = command(
        actions,
        debug,
        "list",
        _list,
        "say which sets are on this machine, and where",
        "Says where each named data set is on this machine.",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="folder that is looked into first")


def _add_pack(actions, debug):
    parser = command(
        actions,
        debug,
        "pack",
        _pack,
        "write a set in numbered parts, each below a size",
        "Writes a data set, losslessly and compressed, in numbered parts and a manifest.",
    )
    parser.add_argument(
        "name",
        help=f"data set: {', '.join(datasets.NAMES)}, an .npz or .csv file, or a folder",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--max-mb",
        type=float,
        default=20,
        metavar="MB",
        help="every part is smaller than this, in 10^6 bytes (default: %(default)s)",
    )
    add_data_folder(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a pack that is in --out")


def _add_unpack(actions, debug):
    parser = command(
        actions,
        debug,
        "unpack",
        _unpack,
        "join and check the parts (needs no TensorFlow)",
        "Joins the parts that pack wrote to an .npz, and checks every byte of it.",
    )
    parser.add_argument("folder", help="folder with manifest.json and all parts")
    parser.add_argument("--out", required=True, metavar="FILE.npz", help="file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the file --out")


def _list(arguments):
    found = datasets.available(arguments.data_dir)
    width = max(map(len, found))
    for name, path in found.items():
        say(f"{name:<{width}}  {path or 'absent'}")


def _pack(arguments):
    manifest = datasets.pack(
        arguments.name,
        arguments.out,
        max_mb=arguments.max_mb,
        overwrite=arguments.overwrite,
        data_dir=arguments.data_dir,
        download=arguments.download,
        say=say,
    )
    parts = manifest["parts"]
    size = sum(part["bytes"] for part in parts) / 10**6
    say(f"{arguments.out}: manifest.json and {len(parts)} parts, {size:.1f} MB.")
    say(f"To join them: keras-pde data unpack {arguments.out} --out {manifest['name']}.npz")


def _unpack(arguments):
    manifest = datasets.unpack(arguments.folder, arguments.out, overwrite=arguments.overwrite)
    counts = " and ".join(f"{count} {split}" for split, count in manifest["counts"].items())
    say(f"{arguments.out}: {manifest['name']}, {counts} images; every digest agrees.")
