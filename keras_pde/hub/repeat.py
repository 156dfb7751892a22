"""The rows of a card, measured again."""

import json

from keras_pde import attacks
from keras_pde.evaluation import Measurement, evaluate
from keras_pde.evaluation.evaluate import digest
from keras_pde.hub.card import Card


def measure_again(card: Card, model, x, y, progress=None) -> list[tuple[Measurement, Measurement]]:
    """Repeats the measurements of a card, with the same images, attacks, radii and seeds.

    Example:

        for published, measured in measure_again(card, kp.load_model(card.name), x_test, y_test):
            print(published.robust_accuracy, published.agrees_with(measured))

    Args:
        card: whose rows are repeated; of what is certified nothing is.
        model: the model of the card.
        x, y: the test part of the card's data set, from its first image on.
        progress: function of (text, finished, total), called now and then.

    Returns:
        Pairs of the published row and the measured one.

    Raises:
        ValueError: the images are not those of the card, or it names an attack that does not exist.
    """
    runs = {}
    for row in card.measurements:
        configs = tuple(json.dumps(a["config"], sort_keys=True) for a in row.attacks)
        key = (row.norm, row.bounds, row.images, row.seed, row.digest, configs)
        runs.setdefault(key, []).append(row)
    pairs = {}
    for _, _, images, _, stated, _ in runs:  # before anything is attacked
        if (found := digest(x[:images], y[:images])) != stated:
            raise ValueError(
                f"Received images with SHA-256 {found}; expected the first {images} test images of "
                f"{card.dataset!r} that the card was measured on, {stated}."
            )
    for (norm, bounds, images, seed, _, configs), rows in runs.items():
        # Radii that were measured together are so again: an attack counts at every larger one.
        report = evaluate(
            model,
            x[:images],
            y[:images],
            norm=norm,
            bounds=bounds,
            epsilons=[row.epsilon for row in rows],
            attacks=[attacks.get(json.loads(config)) for config in configs],
            name=card.name or card.title,
            seed=seed,
            progress=progress,
        )
        pairs.update({id(row): (row, report.measurement(row.epsilon, seed)) for row in rows})
    return [pairs[id(row)] for row in card.measurements]
