from pathlib import Path

from keras_pde import hub
from keras_pde.cli._common import command, say, shown
from keras_pde.hub.publishing import Place


def add(commands, debug, help):
    parser = command(
        commands,
        debug,
        "publish",
        _publish,
        help,
        "Checks the model of a run, copies it to the pretrained models of this clone (or to a "
        "folder of your own), lists it, and draws the boards anew. A folder of your own works for "
        "others if KERAS_PDE_HUB names it or the address it is served at, and KERAS_PDE_INDEX its "
        "zoo.json. Without RUN, only draws the boards anew, from the listed cards.",
    )
    parser.add_argument(
        "folder", nargs="?", metavar="RUN", help="folder that keras-pde train wrote"
    )
    parser.add_argument("--name", help="default: the name in the recipe")
    parser.add_argument("--to", metavar="DIR", help="folder to publish to (default: this clone)")
    stored = parser.add_mutually_exclusive_group()
    stored.add_argument(
        "--float16",
        action="store_const",
        dest="weights",
        const="float16",
        default="float32",
        help="store the weights in half precision, at half the size",
    )
    stored.add_argument(
        "--no-weights",
        action="store_const",
        dest="weights",
        const="none",
        help="publish the card only",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a published model")


def _publish(arguments):
    if arguments.folder is None:
        place = Place.of(arguments.to)
        place.write_boards()
        say(f"Drew the boards of {len(place.cards())} models anew.")
        return
    card = hub.publish(
        arguments.folder,
        name=arguments.name,
        to=arguments.to,
        weights=arguments.weights,
        overwrite=arguments.overwrite,
    )
    say(f"Published {card.name}: weights {card.weights}, {sum(card.sizes.values())} bytes.")
    if arguments.to:
        folder = Path(arguments.to).expanduser().resolve()
        names = f"KERAS_PDE_HUB={shown(folder)} KERAS_PDE_INDEX={shown(folder / 'zoo.json')}"
        say(f"To load it by name: export {names}")
