"""`kp.evaluate` and its report: the numbers, reading and writing, bad input."""

import json

import keras
import numpy as np
import pytest
from evaluation_cases import (
    COUNT,
    EPSILONS,
    SIZE,
    classes,
    honest_images,
    honest_labels,
    honest_model,
    honest_report,
    honest_target,
    linear,
    synthetic,
)
from keras import ops

import keras_pde as kp
from keras_pde.attacks import FGSM, PGD, MinimalDistance
from keras_pde.evaluation import Report, default_attacks
from keras_pde.evaluation.report import interval


@pytest.fixture(scope="module")
def model():
    return honest_model()


@pytest.fixture(scope="module")
def x():
    return honest_images()


@pytest.fixture(scope="module")
def y():
    return honest_labels()


@pytest.fixture(scope="module")
def target():
    return honest_target()


@pytest.fixture(scope="module")
def report():
    return honest_report()


def few_attacks(norm="l2", **settings):
    return [PGD(norm, 0, steps=5, **settings)]


# Numbers


def test_numbers_agree_with_the_attacks_run_by_hand(report, target, x, y, model):
    closest = np.where(classes(model, x) == y, np.inf, 0.0)
    own = []
    for attack in default_attacks("l2"):
        for epsilon in EPSILONS if "epsilon" in attack.get_config() else (None,):
            if epsilon is not None:
                attack = type(attack).from_config({**attack.get_config(), "epsilon": epsilon})
            found = attack(target, x, y)
            closest = np.minimum(closest, np.where(found.success, found.distance, np.inf))
            own.append((attack.label, epsilon, found.robust_accuracy, found.forward_passes))
    np.testing.assert_array_equal(report.distance, closest)
    assert own == [(r.attack, r.epsilon, r.robust_accuracy, r.forward_passes) for r in report.runs]
    assert report.clean_accuracy == (COUNT - 4) / COUNT
    for epsilon in EPSILONS:
        assert report.robust_accuracy(epsilon) == np.mean(closest > epsilon * (1 + 1e-5))
        combined = min(r.robust_accuracy for r in report.runs if r.epsilon == epsilon)
        assert report.robust_accuracy(epsilon) <= combined


def test_robust_accuracy_falls_from_the_clean_accuracy(report):
    curve = [report.robust_accuracy(e) for e in (0, 1e-6, *EPSILONS, 10.0)]
    assert curve == sorted(curve, reverse=True)
    assert curve[0] == report.clean_accuracy > curve[2] > curve[3] > curve[-1] == 0


def test_an_attack_at_one_radius_counts_at_all():
    """What is found within 0.1 is not robust at 0.2, whatever an attack at 0.2 says."""
    report = synthetic([0.1, np.inf])
    assert report.robust_accuracy(0.2) == 0.5
    assert report.robust_accuracy(0.05) == 1.0
    # A perturbation of length epsilon, up to rounding, counts.
    assert synthetic([0.1 * (1 + 5e-6)]).robust_accuracy(0.1) == 0
    assert synthetic([0.1 * (1 + 2e-5)]).robust_accuracy(0.1) == 1


def test_does_not_depend_on_batch_size(report, target, x, y):
    other = kp.evaluate(target, x, y, norm="l2", epsilons=EPSILONS, batch_size=7)
    np.testing.assert_allclose(other.distance, report.distance, rtol=1e-4)
    assert other.alarms == report.alarms
    assert other.digest == report.digest


def test_reports_of_other_images_have_other_digests(report, target, x, y):
    def digest(x, y):
        attacks = [FGSM("l2", 0)]
        return kp.evaluate(target, x, y, norm="l2", epsilons=0.2, attacks=attacks).digest

    assert digest(x, y) == report.digest
    assert len({report.digest, digest(x[::-1], y[::-1]), digest(x, (y + 1) % 3)}) == 3


def test_arrays_one_hot_labels_and_datasets(target, x, y):
    def run(*data):
        return kp.evaluate(target, *data, norm="l2", epsilons=0.2, attacks=few_attacks())

    plain = run(x, y)
    batches = [(x[:25], y[:25]), (x[25:], y[25:])]
    forms = [(x, np.eye(3)[y]), (x, y[:, None]), (x.tolist(), y.tolist()), (batches,)]
    forms.append((((a, b, np.ones(len(a))) for a, b in batches),))  # a generator, with weights
    forms.append(([{"id": 7, "image": a, "label": b} for a, b in batches],))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        forms.append((tf.data.Dataset.from_tensor_slices((x, y)).batch(16),))
        forms.append((tf.data.Dataset.from_tensor_slices((x, np.eye(3)[y])).batch(16),))
    for form in forms:
        found = run(*form)
        np.testing.assert_array_equal(found.distance, plain.distance)
        assert found.digest == plain.digest


def test_epsilons_are_sorted_and_single_ones_are_fine(target, x, y):
    attack = PGD("l2", 0, steps=5)  # one needs no list
    report = kp.evaluate(target, x, y, norm="l2", epsilons=[0.2, 0.05, 0.2], attacks=attack)
    assert report.epsilons == (0.05, 0.2)
    assert len(report.runs) == 2
    only = [MinimalDistance("l2", loss="margin")]
    distances = kp.evaluate(target, x, y, norm="l2", attacks=only)
    assert distances.epsilons == () and distances.runs[0].epsilon is None
    assert "0 (clean)" in distances.table()


def test_progress_and_provenance(target, x, y):
    ticks = []
    report = kp.evaluate(
        target,
        x,
        y,
        norm="l2",
        epsilons=0.2,
        attacks=few_attacks(seed=5),
        name="mine",
        progress=lambda *tick: ticks.append(tick),
    )
    assert ticks and all(t[0] == "PGD-5-ce at 0.2" and 0 <= t[1] <= t[2] > 0 for t in ticks)
    assert report.name == "mine"
    (run,) = report.runs
    assert run.config["class"] == "PGD" and run.config["seed"] == 5 and run.config["epsilon"] == 0.2
    assert run.forward_passes > run.backward_passes > 0 and run.seconds > 0
    assert report.seconds == run.seconds
    backend = keras.backend.backend()
    versions = {"keras", backend, "numpy", "python", "backend", "cores", "devices", "date"}
    assert versions <= set(report.environment)
    assert report.environment["keras"] == keras.__version__


def test_default_attacks_know_their_norm():
    for norm in kp.attacks.pgd.geometry.names():
        assert {attack.norm for attack in default_attacks(norm)} == {norm}
    # In l1 a step moves one pixel: ten steps would leave most images with nothing found.
    assert default_attacks("l1")[-1].steps > default_attacks("l2")[-1].steps


def test_everything_misclassified(target, x, y, model):
    wrong = (classes(model, x) + 1) % 3
    report = kp.evaluate(target, x, wrong, norm="l2", epsilons=0.2)
    assert report.clean_accuracy == report.robust_accuracy(0.2) == 0
    assert report.distance_quantile() == 0 and not report.alarms
    assert report.interval()[0] == 0
    assert report.table()


# Reading and writing


def test_table(report):
    text = synthetic([0.0, 0.1, 0.3, np.inf], name="net").table()
    low, high = interval(2, 4)
    assert text.splitlines() == [
        "net: l2 robustness on 4 images (upper bounds)",
        "",
        "epsilon    accuracy    95 % interval",
        "------------------------------------",
        "0 (clean)    75.0 %  19.4 % - 99.4 %",
        f"0.2          50.0 %   {100 * low:.1f} % - {100 * high:.1f} %",
        "",
        "smallest l2 distance found, quantiles: 25 %: 0, 50 %: 0.1, 75 %: 0.3",
        "",
        "attack    epsilon  accuracy  forward  backward  seconds",
        "-------------------------------------------------------",
        "PGD-5-ce      0.2    50.0 %      123        45      1.2",
        "",
        "ALARM: something is odd",
    ]
    assert "not found" in synthetic([np.inf]).table()
    full = report.table()
    for run in report.runs:
        assert run.attack in full
    assert "MinimalDistance-margin" in full and "ALARM" not in full


def test_plot(report, tmp_path):
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    assert report.plot().axes and not one.exists()
    report.plot(path=one)
    other = synthetic([0.0, 0.1, np.inf], name="other")
    report.plot(other, path=two, title="two")
    for path in (one, two):
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert path.stat().st_size > 5000
    synthetic([np.inf, np.inf], epsilons=()).plot(path=one)  # nothing found, nothing asked
    with pytest.raises(ValueError, match=r"Received reports \['b'\] in another norm than 'l2'"):
        report.plot(synthetic([0.1], name="b", norm="linf"))


def test_json_round_trip_is_exact(report, tmp_path):
    path = tmp_path / "report.json"
    text = report.to_json(path)
    for source in (path, str(path), text):
        copy = Report.from_json(source)
        assert copy == report
        np.testing.assert_array_equal(copy.distance, report.distance)
        assert copy.distance.dtype == "float64"
        assert copy.to_json() == text and copy.table() == report.table()
        assert copy.adversarials is None
    strange = synthetic([0.0, np.inf, 1 / 3, 1e-38])
    copy = Report.from_json(strange.to_json())
    np.testing.assert_array_equal(copy.distance, strange.distance)
    assert copy == strange != report
    assert copy != "a report"
    assert "adversarials" not in json.loads(text) and "Infinity" not in text


def test_bad_files(report, tmp_path):
    old = json.dumps({**json.loads(report.to_json()), "schema": 99})
    with pytest.raises(ValueError, match="schema 99; this version reads 1"):
        Report.from_json(old)
    with pytest.raises(ValueError, match="schema None"):
        Report.from_json("{}")
    with pytest.raises(ValueError, match="not a report"):
        Report.from_json(report.to_json()[:-40])
    with pytest.raises(ValueError, match="not a report"):
        Report.from_json('{"schema": 1, "name": "x"}')
    with pytest.raises(FileNotFoundError):
        Report.from_json(tmp_path / "nothing.json")


def test_saved_adversarials_are_what_the_report_says(report, model, x, y, tmp_path):
    path = tmp_path / "adversarials.npz"
    report.save_adversarials(path)
    with np.load(path) as saved:
        np.testing.assert_array_equal(saved["x"], x)
        np.testing.assert_array_equal(saved["y"], y)
        adversarial, distance = saved["adversarial"], saved["distance"]
    np.testing.assert_array_equal(distance, report.distance)
    found = np.isfinite(distance)
    assert np.all(classes(model, adversarial)[found] != y[found])
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    measured = np.linalg.norm(adversarial.astype("float64") - x, axis=1)
    np.testing.assert_allclose(measured[found], distance[found], rtol=1e-5)
    np.testing.assert_array_equal(adversarial[~found], x[~found])
    with pytest.raises(ValueError, match="read from a file"):
        Report.from_json(report.to_json()).save_adversarials(path)


# Bad input


class Rounded(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = linear()

    def call(self, x):
        return self.inner(ops.round(16.0 * x) / 16.0)


def test_a_model_that_is_not_differentiable_is_refused(x, y):
    with pytest.raises(ValueError, match=r"gradient of exactly zero.*not differentiable"):
        kp.evaluate(Rounded(), x, y, norm="l2", epsilons=0.2)


X = np.full((4, SIZE), 0.5, "float32")
Y = np.zeros(4, "int32")


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        ((X, Y), {"attacks": [FGSM("l2", 0)]}, "no epsilons and no attack that works without"),
        ((X, Y), {"epsilons": 0.1, "attacks": []}, "no epsilons and no attack"),
        ((X, Y), {"epsilons": [0.1, -1]}, "length of at least 0"),
        ((X, Y), {"epsilons": [0.0]}, "lengths above 0"),
        ((X, Y), {"epsilons": np.nan}, "finite length"),
        ((X, Y), {"epsilons": np.inf}, "finite length"),
        ((X, Y), {"norm": "linf", "epsilons": 8}, "such as 8/255"),
        ((X, Y), {"norm": "L2", "epsilons": 0.1}, "Did you mean 'l2'"),
        ((X, Y), {"norm": "l3", "epsilons": 0.1}, "unknown norm 'l3'"),
        ((X, Y), {"bounds": (0, 255), "epsilons": "8/255"}, "a fraction as text"),
        ((X, Y), {"bounds": (1, 0), "epsilons": 0.1}, "low < high"),
        ((X, Y), {"epsilons": 0.1, "attacks": [PGD("linf", 0.1)]}, "for an evaluation with"),
        ((X, Y), {"epsilons": 0.1, "attacks": [PGD("l2", 0, bounds=None)]}, "same norm and bounds"),
        ((X, Y), {"epsilons": 0.1, "attacks": ["pgd"]}, "'pgd' among the attacks"),
        ((X,), {"epsilons": 0.1}, "without labels"),
        (([],), {"epsilons": 0.1}, "empty dataset"),
        (([(X[0], Y[0])],), {"epsilons": 0.1}, "of single examples"),
        (([X, X],), {"epsilons": 0.1}, "without labels"),
        (([(X, Y), X],), {"epsilons": 0.1}, "do not all have labels"),
        (([{"x": X, "label": Y}],), {"epsilons": 0.1}, r"the keys \['label', 'x'\]"),
        ((iter([(X, Y)]), Y), {"epsilons": 0.1}, "expected an array of numbers"),
        ((255 * X, Y), {"epsilons": 0.1}, "divide by 255"),
        ((X * np.nan, Y), {"epsilons": 0.1}, "NaN"),
        ((X, Y + 3), {"epsilons": 0.1}, "expected 0 to 2"),
        ((X, Y[:2]), {"epsilons": 0.1}, "2 labels for 4 images"),
        ((X[0], Y[:1]), {"epsilons": 0.1}, "batch axis"),
        ((X[:0], Y[:0]), {"epsilons": 0.1}, "at least one"),
    ],
)
def test_bad_input(data, settings, message):
    with pytest.raises(ValueError, match=f"Received.*{message}"):
        kp.evaluate(linear(), *data, **{"norm": "l2", **settings})
