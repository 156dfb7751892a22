from keras_pde.cli._common import command, say
from keras_pde.hub import publishing


def add(commands, debug, help):
    parser = command(
        commands,
        debug,
        "unpublish",
        _unpublish,
        help,
        "Takes a model out of the list, deletes its files, and draws the boards anew.",
    )
    parser.add_argument("name", help="of a published model")
    parser.add_argument(
        "--to", metavar="DIR", help="folder it was published to (default: this clone)"
    )


def _unpublish(arguments):
    publishing.unpublish(arguments.name, arguments.to)
    say(f"Unpublished {arguments.name}.")
