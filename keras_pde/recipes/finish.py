"""From the kept epoch to a measured, saved model."""

import keras

from keras_pde import _keras, hub, models
from keras_pde.attacks import Target
from keras_pde.evaluation import evaluate
from keras_pde.recipes import build
from keras_pde.recipes.run_folder import BEST
from keras_pde.text import percent

_OF_A_BLOCK = ("after_epoch", "pace")  # facts of a start that are not about the whole training


def kept_model(recipe, folder, loaded) -> keras.Model:
    """The network with the weights of the kept epoch, in float32."""
    weights, _ = folder.read_arrays(BEST)
    with build.precision("float32"):
        name, arguments = build.architecture(recipe, loaded)
        model = models.create(name, **arguments)
    _keras.set_weights(model, weights)
    return model


def finish(recipe, folder, loaded, made, say, progress) -> None:
    """Evaluates the kept model as the recipe says, and saves it with its card.

    Args:
        recipe, folder, loaded: a `Recipe`, its `RunFolder`, and the data.
        made: how it was trained, as `Journal.progress_made` and `run.json` say.
        say: function of a line of text.
        progress: function of (text, finished, total), or `None`.
    """
    model = kept_model(recipe, folder, loaded)
    reports = attack(recipe, folder, loaded, model, say, progress)
    card = save(recipe, folder, loaded, model, made, reports)
    say(
        f"Saved {folder / 'model'}: epoch {made['kept']['epoch']} of {made['epochs']}"
        + "".join(
            f", {percent(m.robust_accuracy)} robust at {m.norm} {m.epsilon:.4g}"
            for m in card.measurements
        )
        + "."
    )


def attack(recipe, folder, loaded, model, say, progress, finished=None) -> list:
    """Runs the recipe's evaluations, which leave a report and a picture each; the `Report`s.

    Args:
        recipe, folder, loaded, say, progress: as in `finish`.
        model: the kept model.
        finished: function of a report's file name, called when it stands; `None` for none.
    """
    reports = []
    for index, evaluation in enumerate(recipe.evaluation):
        report = _evaluate(model, recipe, evaluation, loaded, progress)
        stem = f"report_{evaluation.norm}" + (f"_{index}" if index else "")
        folder.write(f"{stem}.json", report.to_json().encode())
        if finished:
            finished(f"{stem}.json")
        folder.draw(f"{stem}.png", report.plot)
        say(f"\n{report.table()}\n")
        reports.append(report)
    return reports


def save(recipe, folder, loaded, model, made, reports) -> hub.Card:
    """Saves the kept model, with a card that states what the evaluations found, if they ran."""
    measurements = [
        report.measurement(epsilon, evaluation.seed)
        for evaluation, report in zip(recipe.evaluation, reports, strict=False)
        for epsilon in evaluation.epsilons
    ]
    card = _card(recipe, loaded, made, measurements)
    return hub.save_model(model, folder / "model", card, overwrite=True)


def _evaluate(model, recipe, evaluation, loaded, progress):
    count = evaluation.images or len(loaded.x_test)
    x, y = loaded.x_test[:count], loaded.y_test[:count]
    return evaluate(
        Target(model, x),
        x,
        y,
        norm=evaluation.norm,
        epsilons=evaluation.epsilons,
        attacks=build.attacks(evaluation),
        name=recipe.name or recipe.title,
        seed=evaluation.seed,
        progress=progress,
    )


def check_card(recipe, loaded) -> None:
    """Refuses before a training what its card could not say after it, such as a bad name."""
    made = {
        "history": [],
        "kept": None,
        "epochs": recipe.training.epochs,
        "starts": [{"commit": ""}],
    }
    hub.Card.from_user(_card(recipe, loaded, made, [])).to_json()


def _card(recipe, loaded, made, measurements):
    architecture, arguments = build.architecture(recipe, loaded)
    minutes = sum(row["seconds"] for row in made["history"]) / 60
    done, epochs, starts = len(made["history"]), made["epochs"], made["starts"]
    stopped = [f"The training was stopped after epoch {done} of {epochs}."] * (done < epochs)
    return {
        "name": recipe.name,
        "title": recipe.title,
        "architecture": architecture,
        "arguments": arguments,
        "dataset": loaded.name,
        "input_shape": loaded.x_train.shape[1:],
        "classes": loaded.class_names,
        "licence": recipe.licence,
        "description": recipe.description,
        "caveats": [*recipe.caveats, *stopped],
        "objective": repr(build.objective(recipe)),
        "recipe": recipe.replaced({"training.epochs": epochs}).values,
        "measurements": measurements,
        "provenance": {
            "seed": recipe.training.seed,
            "data_digest": loaded.digest,
            "epochs": epochs,
            "kept": made["kept"],
            "training_minutes": round(minutes, 1),
            **{key: value for key, value in starts[-1].items() if key not in _OF_A_BLOCK},
            "commit": ", ".join(dict.fromkeys(start["commit"] for start in starts)),
        },
    }
