from keras_pde.cli._common import command, say
from keras_pde.hub import load_card


def add(commands, debug):
    parser = command(
        commands, debug, "show", _show, "print the card of a saved model", "Prints the card (JSON)."
    )
    parser.add_argument("folder", help="folder of the model")


def _show(arguments):
    say(load_card(arguments.folder).to_json())
