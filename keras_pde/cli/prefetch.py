from keras_pde import hub
from keras_pde.cli._common import command, say
from keras_pde.hub import load


def add(commands, debug, help):
    parser = command(
        commands,
        debug,
        "prefetch",
        _prefetch,
        help,
        "Downloads the files of published models into the cache, so that they can be loaded "
        "without a network.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="models (default: all)")


def _prefetch(arguments):
    listed = {model.name: model for model in hub.list_models()}
    chosen = arguments.names or [name for name, row in listed.items() if row.weights != "none"]
    for name in chosen:
        load.prefetch(name)
    say(f"The files of {len(chosen)} model{'s' * (len(chosen) != 1)} are here.")
