"""The published table of 2018 beside our own models, from the zoo's cards; measures nothing.

"% error at e" is the share of test images that are misclassified, or become so by a perturbation of
length e or less, as in Finlay, Oberman and Abbasi (2018), arXiv 1810.00953.
"""

from common import parser, report

import keras_pde as kp

# (median L2, % error at L2 0.1, median Linf, % error at Linf 1/16), CIFAR-10, ResNeXt34 2x32.
SLIDE = {
    "j0": (0.09, 53.98, 1.02e-2, 99.92),
    "j1": (0.18, 24.63, 2.12e-2, 96.06),
    "j2": (0.30, 13.54, 3.45e-2, 84.76),
    "j2-lip": (0.56, 12.12, 6.00e-2, 51.64),
}
FAMILIES = ("fashion_mnist/2018/", "cifar10/2018/", "cifar10/2018-full/")
# J2-Lip with values that Keras Tuner found on validation images, and the J0 of the same set.
TUNED = {f"{name}/tulip/resnext34_2x32": f"{name}/2018/j0" for name in ("fashion_mnist", "cifar10")}


def main():
    options = parser(__doc__).parse_args()
    rows = [
        {
            "what": f"CIFAR-10, {name}, the slide",
            "target": "-",
            "measured": _text(values),
            "where": "theirs, 2018",
        }
        for name, values in SLIDE.items()
    ]
    cards = {model.name: kp.hub.load_card(model.name) for model in kp.list_models()}
    for name in (*(n for f in FAMILIES for n in cards if n.startswith(f)), *TUNED):
        if name in cards:
            rows.append({"what": name, "target": "-", "measured": _measured(cards[name])})
    for name, plain in TUNED.items():
        if name in cards:
            rows.append(
                {
                    "what": f"{name} / {plain}, median L2",
                    "target": ">= 2.5 at <= 3 points",
                    "measured": _compared(cards[name], cards[plain]),
                }
            )
    notes = [
        "Columns: median L2 distance, % error at L2 0.1, median Linf distance, % error at Linf "
        "1/16; ours with the clean error. Medians and errors are upper bounds of the distance and "
        "lower bounds of the error.",
        "The slide: 10,000 test images, Foolbox 1 attacks (10 iterations, 20 bisections), the "
        "checkpoint of lowest test error. Ours: the images, attacks, seeds and selection that the "
        "cards state; the test set selected nothing.",
    ]
    report("protocol_2018", rows, {}, options, notes)


def _measured(card):
    by_norm = {row.norm: row for row in card.measurements}
    l2, linf = by_norm["l2"], by_norm["linf"]
    values = (
        l2.median_distance,
        100 * (1 - l2.robust_accuracy),
        linf.median_distance,
        100 * (1 - linf.robust_accuracy),
    )
    clean_error = 100 * (1 - l2.clean_accuracy)
    return f"{_text(values)} (clean error {clean_error:.1f} %, {l2.images} images)"


def _compared(card, plain):
    row, other = (
        next(row for row in one.measurements if row.norm == "l2") for one in (card, plain)
    )
    points = 100 * (other.clean_accuracy - row.clean_accuracy)
    ratio = row.median_distance / other.median_distance
    return f"{ratio:.2f} times, at {points:.1f} points of clean error"


def _text(values):
    median_l2, error_l2, median_linf, error_linf = values
    return f"{median_l2:.2f}, {error_l2:.1f} %, {median_linf:.2e}, {error_linf:.1f} %"


if __name__ == "__main__":
    main()
