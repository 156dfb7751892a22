from keras_pde import recipes
from keras_pde.cli._common import command, say
from keras_pde.hub import load_card


def add(commands, debug, help):
    parser = command(
        commands,
        debug,
        "show",
        _show,
        help,
        "Prints the card (JSON), or the recipe in it (TOML).",
    )
    parser.add_argument("model", help="name of a published model, or folder of a saved one")
    parser.add_argument(
        "--recipe", action="store_true", help="print the recipe, for keras-pde train"
    )


def _show(arguments):
    card = load_card(arguments.model)
    if not arguments.recipe:
        say(card.to_json())
    elif card.recipe:
        say(recipes.Recipe.of(card.recipe).to_toml())
    else:
        raise ValueError(
            f"The card of {arguments.model} holds no recipe; it was not trained by one."
        )
