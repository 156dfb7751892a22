from keras_pde.cli._common import command, say
from keras_pde.hub import publishing
from keras_pde.text import columns


def add(commands, debug, help):
    parser = command(
        commands,
        debug,
        "check",
        _check,
        help,
        "Loads every published model, and compares digests, sizes, weights and logits with its "
        "card. The exit code is 1 if something is wrong.",
    )
    parser.add_argument(
        "--to", metavar="DIR", help="folder they were published to (default: this clone)"
    )


def _check(arguments):
    found = publishing.check(arguments.to)
    rows = [("model", ""), *((name, text or "ok") for name, text in found.items())]
    say("\n".join(columns(rows)))
    wrong = sum(map(bool, found.values()))
    if wrong:
        raise ValueError(f"{wrong} of {len(found)} models cannot be loaded. Publish them again.")
