"""The model of a card, with bounds on what a forged one can ask for."""

from keras_pde import _keras, models
from keras_pde.models.from_config import check_sizes

_MOST = {"": 2**20, "seed": 2**63, "steps": 1000, "blocks": 1000, "num_basis": 1000}
_MOST |= {"input_dim": 2**31, "num_bins": 2**31}  # parameters, or no work at all


def build(card):
    """The model, with new weights."""
    return models.create(card.architecture, **card.arguments)


def check_counts(card):
    """Refuses numbers with which a model takes hours to build, whatever its weights are."""

    def check(name, value):
        if isinstance(value, dict):
            for key, item in value.items():
                check(key, item)
        elif isinstance(value, list | tuple):
            for item in value:
                check(name, item)
        elif isinstance(value, int) and value > (most := _MOST.get(name, _MOST[""])):
            raise ValueError(
                f"Received a card with {name} = {value!r}; expected at most {most}. If it is one "
                "of yours, make the model by `kp.models.create`, and load its weights file."
            )

    check("arguments", card.arguments)


def multiply_adds(model):
    """As `models.multiply_adds`; 0 for a network of one's own with layers of unknown cost."""
    try:
        return models.multiply_adds(model)
    except ValueError:
        return 0


def count_parameters(card):
    """The size of the card's model, found before any of it is allocated: what is larger than the
    card says is not built to its end."""
    # With what a layer has beside its parameters, such as the state of random numbers; some layers
    # that are made from a configuration throw away what they made before.
    times = 4 if card.architecture == models.FROM_CONFIG else 1.1
    most = times * card.parameters + 1000
    try:
        with _keras.without_values(most):
            model = build(card)
            if card.architecture == models.FROM_CONFIG:
                check_sizes(model, card.input_shape)
            return model.count_params()
    except _keras.TooLarge:
        return f"more than {most:.0f}"
