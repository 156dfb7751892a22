"""From the kept epoch to a measured, saved model."""

import keras

from keras_pde import hub, models
from keras_pde.attacks import Target
from keras_pde.evaluation import evaluate
from keras_pde.measure import measurement
from keras_pde.recipes import build
from keras_pde.recipes.run_folder import BEST
from keras_pde.units import percent


def kept_model(recipe, folder, loaded) -> keras.Model:
    """The network with the weights of the kept epoch, in float32."""
    weights, _ = folder.read_arrays(BEST)
    with build.precision("float32"):
        name, arguments = build.architecture(recipe, loaded)
        model = models.create(name, **arguments)
    model.set_weights(weights)
    return model


def finish(recipe, folder, loaded, journal, say, progress) -> None:
    """Evaluates the kept model as the recipe says, and saves it with its card."""
    model = kept_model(recipe, folder, loaded)
    measurements = []
    for index, evaluation in enumerate(recipe.evaluation):
        report = _evaluate(model, recipe, evaluation, loaded, progress)
        stem = f"report_{evaluation.norm}" + (f"_{index}" if index else "")
        folder.write(f"{stem}.json", report.to_json().encode())
        folder.draw(f"{stem}.png", report.plot)
        say(f"\n{report.table()}\n")
        measurements += [measurement(report, e, evaluation.seed) for e in evaluation.epsilons]
    hub.save_model(
        model, folder / "model", _card(recipe, loaded, journal, measurements), overwrite=True
    )
    say(
        f"Saved {folder / 'model'}: epoch {journal.best['epoch']} of {recipe.training.epochs}"
        + "".join(
            f", {percent(m.robust_accuracy)} robust at {m.norm} {m.epsilon:.4g}"
            for m in measurements
        )
        + "."
    )


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


def _card(recipe, loaded, journal, measurements):
    architecture, arguments = build.architecture(recipe, loaded)
    minutes = sum(row["seconds"] for row in journal.history) / 60
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
        "caveats": recipe.caveats,
        "objective": repr(build.objective(recipe)),
        "recipe": recipe.values,
        "measurements": measurements,
        "provenance": {
            "seed": recipe.training.seed,
            "epochs": recipe.training.epochs,
            "kept": journal.best,
            "training_minutes": round(minutes, 1),
            **{key: value for key, value in journal.starts[-1].items() if key != "after_epoch"},
            "commit": ", ".join(dict.fromkeys(start["commit"] for start in journal.starts)),
        },
    }
