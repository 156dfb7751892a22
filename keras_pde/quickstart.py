"""Four twins of one small network, trained, attacked and compared, on real images.

J0 (plain), J1 (FGSM), J2 (L2) and J2-Lip (tulip, with a tanh head) of Finlay, Oberman and Abbasi
(2018, arXiv 1810.00953), and the table of that paper for them.
"""

import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path

import keras

from keras_pde import data as datasets
from keras_pde import environment, files, models
from keras_pde.attacks import Target
from keras_pde.evaluation import Report, evaluate
from keras_pde.hub import save_model
from keras_pde.objectives import Adversarial, Objective, Plain, Tulip
from keras_pde.text import columns, number, percent
from keras_pde.training import RobustModel

BATCH = 64
EPSILONS = {"l2": 0.5, "linf": 1 / 32}


@dataclass(frozen=True)
class Settings:
    """What a run depends on.

    Attributes:
        data: name or path of the data set.
        data_dir: folder of TensorFlow Datasets, or `None`.
        download: whether an absent set may be downloaded.
        limit: number of training images, or `None` for all.
        epochs: passes over them.
        images: number of test images that are attacked.
        epsilon: length of the training perturbations.
        weight: factor of the Lipschitz penalty.
        published: whether J2-Lip is the setting of 2018 instead (and epsilon 0.01).
        seed: integer.
    """

    data: str = datasets.SAMPLE
    data_dir: str | None = None
    download: bool = False
    limit: int | None = None
    epochs: int = 8
    images: int = 300
    epsilon: float = 0.1
    weight: float = 0.05
    published: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Twin:
    """One row of the table."""

    name: str
    objective: Objective
    tanh_logits: bool = False


def twins(settings: Settings) -> list[Twin]:
    """The four models. Every perturbation has Euclidean length epsilon, as in the paper."""
    epsilon = 0.01 if settings.published else settings.epsilon
    bounds = None if settings.published else (0.0, 1.0)
    tulip = Tulip.paper2018() if settings.published else Tulip(epsilon, settings.weight)
    return [
        Twin("J0", Plain()),
        Twin("J1", Adversarial("linf", epsilon, epsilon_norm="l2", bounds=bounds)),
        Twin("J2", Adversarial("l2", epsilon, bounds=bounds)),
        Twin("J2-Lip", tulip, tanh_logits=True),
    ]


def free_folder(folder) -> Path:
    """`folder`, or `folder-2`, `folder-3`, ... if there is something in it already."""
    folder = Path(folder)
    numbered = (folder.with_name(f"{folder.name}-{i}") for i in itertools.count(2))
    return next(f for f in itertools.chain([folder], numbered) if not _occupied(f))


def _occupied(folder):
    return folder.is_file() or any(path.is_file() for path in folder.rglob("*"))


def run(settings: Settings, out, say=print, progress=None) -> dict[str, dict[str, Report]]:
    """Trains and attacks the twins, and writes what came out into the folder `out`.

    Each model is written as soon as it is trained, the reports as soon as it is attacked: an
    interrupted run keeps what is finished.

    Args:
        settings: what to run.
        out: folder; created if need be.
        say: function of a line of text.
        progress: function of (text, finished, total), called during attacks.

    Returns:
        name -> norm -> `Report`.
    """
    out = Path(out)
    dataset = datasets.load(settings.data, settings.limit, settings.data_dir, settings.download)
    x, y = dataset.x_test[: settings.images], dataset.y_test[: settings.images]
    say(
        f"{dataset.name}: {len(dataset.x_train)} images to train on and validate, {len(x)} test "
        f"images to attack. Everything is written to {out}."
    )
    (out / "models").mkdir(parents=True, exist_ok=True)
    reports = {}
    for twin in twins(settings):
        began = time.perf_counter()
        say(f"\n{twin.name}: {twin.objective!r}")
        model, arguments = train(twin, settings, dataset)
        seconds = time.perf_counter() - began
        target = Target(model, x)
        reports[twin.name] = {
            norm: evaluate(
                target, x, y, norm=norm, epsilons=[epsilon], name=twin.name, progress=progress
            )
            for norm, epsilon in EPSILONS.items()
        }
        _save(
            model, out / "models" / twin.name, twin, arguments, dataset, settings, seconds, reports
        )
        _write_reports(out, settings, reports)
        say(f"{twin.name}: trained in {seconds:.0f} s; {_summary(reports[twin.name])}")
    return reports


def train(twin: Twin, settings: Settings, dataset, verbose=2):
    """The trained network of a twin, and the arguments that `models.create` made it from.

    A tenth of the training images validates; it is shown, nothing is selected by it.
    """
    training, validation = dataset.split_validation(0.1, settings.seed)
    keras.utils.set_random_seed(settings.seed)
    arguments = {
        "input_shape": list(dataset.x_train.shape[1:]),
        "num_classes": len(dataset.class_names),
        "tanh_logits": twin.tanh_logits,
        "seed": settings.seed,
    }
    model = models.create("small_cnn", **arguments)
    # Whole batches only: the rest of the images would be a second shape to compile.
    batch_size = min(BATCH, len(training[0]))
    x, y = (array[: len(array) // batch_size * batch_size] for array in training)
    steps = settings.epochs * len(x) // batch_size
    rate = keras.optimizers.schedules.CosineDecay(
        0.005, steps - steps // 5, warmup_target=0.05, warmup_steps=steps // 5
    )
    robust = RobustModel(model, twin.objective, seed=settings.seed)
    robust.compile(
        keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    robust.fit(
        x,
        y,
        batch_size=batch_size,
        epochs=settings.epochs,
        validation_data=validation,
        validation_batch_size=len(validation[0]),
        verbose=verbose,
    )
    return model, arguments


def _save(model, folder, twin, arguments, dataset, settings, seconds, reports):
    card = {
        "architecture": "small_cnn",
        "arguments": arguments,
        "title": f"Quickstart twin {twin.name} on {dataset.name}",
        "dataset": dataset.name,
        "input_shape": dataset.x_train.shape[1:],
        "classes": dataset.class_names,
        "licence": "Apache-2.0",
        "caveats": ["Trained in a minute on few images, to show the library; not for use."],
        "objective": repr(twin.objective),
        "measurements": [
            report.measurement(EPSILONS[norm], seed=0)
            for norm, report in reports[twin.name].items()
        ],
        "provenance": {
            "epochs": settings.epochs,
            "seed": settings.seed,
            "training_seconds": round(seconds, 1),
            **environment.describe(),
        },
    }
    save_model(model, folder, card, overwrite=True)


def _write_reports(out, settings, reports):
    """`report.json` with everything measured so far, and one picture of error curves a norm."""
    written = {
        "settings": settings.__dict__,
        "reports": {
            name: {norm: json.loads(report.to_json()) for norm, report in by_norm.items()}
            for name, by_norm in reports.items()
        },
    }
    files.write(out / "report.json", json.dumps(written, indent=1) + "\n")
    for norm in EPSILONS:
        first, *others = (by_norm[norm] for by_norm in reports.values())
        first.plot(*others, path=out / f"error_curve_{norm}.png")


def _summary(by_norm):
    clean = next(iter(by_norm.values())).clean_accuracy
    medians = ", ".join(f"median {n} {number(r.distance_quantile())}" for n, r in by_norm.items())
    return f"clean error {percent(1 - clean)}, {medians}"


def table(reports: dict[str, dict[str, Report]]) -> str:
    """The table of the paper: one row a model."""
    l2, linf = EPSILONS["l2"], EPSILONS["linf"]
    rows = [
        (
            "model",
            "clean error",
            "median L2",
            f"error at {l2:g}",
            "median Linf",
            f"error at {linf:g}",
        )
    ]
    for name, by_norm in reports.items():
        rows.append(
            (
                name,
                percent(1 - by_norm["l2"].clean_accuracy),
                number(by_norm["l2"].distance_quantile()),
                percent(1 - by_norm["l2"].robust_accuracy(l2)),
                number(by_norm["linf"].distance_quantile()),
                percent(1 - by_norm["linf"].robust_accuracy(linf)),
            )
        )
    return "\n".join(columns(rows))


def verdict(reports: dict[str, dict[str, Report]]) -> str:
    """Whether the paper's ordering J0 < J1 < J2 < J2-Lip of median distances came out."""
    medians = {name: by["l2"].distance_quantile() for name, by in reports.items()}
    names = list(medians)
    if len(names) < 2:
        return ""
    ordered = all(medians[a] < medians[b] for a, b in itertools.pairwise(names))
    chain = (
        " < ".join(names) if ordered else ", ".join(f"{n} {number(m)}" for n, m in medians.items())
    )
    first, last = reports[names[0]]["l2"], reports[names[-1]]["l2"]
    compared = last.compare(first)
    low, high = map(number, compared.ratio_interval)
    return (
        (
            f"The order {chain} of the paper came out"
            if ordered
            else f"The order of the paper did NOT come out in this run ({chain})"
        )
        + f"; {names[-1]} needs {number(compared.ratio)} times the L2 perturbation of {names[0]} "
        f"(95 % interval {low} - {high}, {first.count} images, one training each)."
    )


def sanity(reports) -> list[str]:
    """The alarms of all reports, with the model's name."""
    return [
        f"{name} ({norm}): {alarm}"
        for name, by_norm in reports.items()
        for norm, report in by_norm.items()
        for alarm in report.alarms
    ]


def smoke(settings: Settings) -> Settings:
    """The same run in seconds: few images, one epoch. Its numbers mean nothing."""
    changes = {"limit": 200, "epochs": 1, "images": 20}
    return Settings(**{**settings.__dict__, **changes})
