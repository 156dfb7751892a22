"""`kp.evaluate`, its report, the comparison of two reports, and every alarm, tripped and quiet."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops
from scipy import stats

import keras_pde as kp
from keras_pde.attacks import FGSM, PGD, Attack, MinimalDistance, Target
from keras_pde.evaluation import AttackRun, Report, alarms, default_attacks
from keras_pde.evaluation.report import interval

JAX = keras.backend.backend() == "jax"
COUNT, SIZE = 40, 6
EPSILONS = (0.05, 0.2)


def linear(seed=0, scale=1.0, head=None):
    """Logits W^T x of three classes, balanced over the unit box; `head` is put on top of them."""
    kernel = np.random.default_rng(seed).normal(size=(SIZE, 3))
    inputs = keras.Input((SIZE,))
    dense = layers.Dense(3)
    outputs = dense(inputs)
    model = keras.Model(inputs, outputs if head is None else head(outputs), name=f"model_{seed}")
    dense.set_weights([scale * kernel, -scale * kernel.sum(axis=0) / 2])
    return model


def classes(model, x):
    return ops.convert_to_numpy(model(x, training=False)).argmax(axis=1)


@pytest.fixture(scope="module")
def model():
    return linear()


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).uniform(size=(COUNT, SIZE)).astype("float32")


@pytest.fixture(scope="module")
def y(model, x):
    """What the model says but for the first four."""
    y = classes(model, x)
    y[:4] = (y[:4] + 1) % 3
    return y


@pytest.fixture(scope="module")
def target(model, x):
    """One for all tests of this file: nothing compiles twice."""
    return Target(model, x)


@pytest.fixture(scope="module")
def report(target, x, y):
    """The default evaluation of an honest model."""
    return kp.evaluate(target, x, y, norm="l2", epsilons=EPSILONS)


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
    other = kp.evaluate(target, x, y, norm="l2", epsilons=EPSILONS, batch_size=7 if JAX else 3)
    np.testing.assert_allclose(other.distance, report.distance, rtol=1e-4)
    assert other.alarms == report.alarms
    assert other.digest == report.digest


def test_arrays_one_hot_labels_and_datasets(target, x, y):
    def run(*data):
        return kp.evaluate(target, *data, norm="l2", epsilons=0.2, attacks=few_attacks())

    plain = run(x, y)
    batches = [(x[:25], y[:25]), (x[25:], y[25:])]
    forms = [(x, np.eye(3)[y]), (x, y[:, None]), (x.tolist(), y.tolist()), (batches,)]
    forms.append((((a, b, np.ones(len(a))) for a, b in batches),))  # a generator, with weights
    if not JAX:
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


# Statistics


def test_interval_is_clopper_pearson():
    # 8 of 10: a value printed in many tables.
    assert interval(8, 10) == pytest.approx((0.4439, 0.9748), abs=5e-5)
    for successes, count in ((0, 20), (20, 20), (7, 1000)):
        low, high = interval(successes, count)
        beta = stats.beta
        assert low == pytest.approx(
            beta.ppf(0.025, successes, count - successes + 1) if successes else 0.0
        )
        assert high == pytest.approx(
            beta.ppf(0.975, successes + 1, count - successes) if successes < count else 1.0
        )
    report = synthetic([0.0, 0.1, 0.3, np.inf])
    assert report.interval(0.2) == interval(2, 4)
    assert report.interval() == interval(3, 4)


def synthetic(distance, name="synthetic", norm="l2", epsilons=(0.2,), digest="d" * 64):
    config = {"class": "PGD", "norm": norm, "bounds": (0.0, 1.0), "epsilon": 0.2, "loss": "ce"}
    return Report(
        name=name,
        norm=norm,
        bounds=(0.0, 1.0),
        epsilons=tuple(epsilons),
        distance=np.asarray(distance, "float64"),
        runs=(AttackRun("PGD-5-ce", config, 0.2, 0.5, 123, 45, 1.25),),
        alarms=("something is odd",),
        digest=digest,
        environment={"keras": "3", "cores": 2},
    )


def test_quantiles_count_misclassified_as_zero_and_not_found_as_infinite():
    report = synthetic([0.0, 0.0, 0.1, 0.2, np.inf, np.inf, np.inf, np.inf])
    assert report.distance_quantile(0.25) == 0.0
    assert report.distance_quantile(0.5) == 0.2
    assert report.distance_quantile(0.51) == np.inf
    assert report.clean_accuracy == 0.75


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
    report.plot(one)
    report.plot(two, synthetic([0.0, 0.1, np.inf], name="other"), title="two")
    for path in (one, two):
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert path.stat().st_size > 5000
    synthetic([np.inf, np.inf], epsilons=()).plot(one)  # nothing found, nothing asked
    with pytest.raises(ValueError, match=r"Received reports \['b'\] in another norm than 'l2'"):
        report.plot(two, synthetic([0.1], name="b", norm="linf"))


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


# Comparison


def test_comparison_counts_pairs():
    first = synthetic([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.1, 0.0, np.inf], "one", epsilons=(0.2, 0.3))
    other = synthetic([0.1, 0.1, 0.1, 0.1, 0.1, 0.5, 0.5, 0.0, 0.0], "two", epsilons=(0.2, 0.9))
    found = first.compare(other)
    assert [row.epsilon for row in found.rows] == [0.0, 0.2], "only what both have"
    clean, at = found.rows
    assert (clean.only_first, clean.only_second, clean.p_value) == (1, 0, 1.0)
    assert (at.first, at.second) == (7 / 9, 2 / 9)
    assert (at.only_first, at.only_second) == (6, 1)
    # McNemar, exact: twice P(at most 1 of 7 fair coins).
    assert at.p_value == pytest.approx(2 * (1 + 7) / 2**7)
    assert found.medians == (0.5, 0.1) and found.ratio == pytest.approx(5.0)
    low, high = found.ratio_interval
    assert low <= found.ratio <= high
    text = found.table()
    for part in ("one", "two", "only one", "77.8 %", "22.2 %", "0.12", "0.5 / 0.1 = 5"):
        assert part in text
    same = first.compare(first)
    assert same.ratio == 1 and same.ratio_interval == (1.0, 1.0)
    assert all(row.p_value == 1 and row.only_first == 0 for row in same.rows)


def test_comparison_where_nothing_is_found():
    nothing, all_wrong = synthetic([np.inf] * 5), synthetic([0.0] * 5)
    assert nothing.compare(nothing).ratio == 1
    assert nothing.compare(all_wrong).ratio == np.inf
    assert all_wrong.compare(nothing).ratio == 0
    mixed = synthetic([0.1, np.inf, np.inf, 0.1, 0.0])
    assert "not found" in nothing.compare(mixed).table()


def test_the_bootstrap_covers_the_true_ratio():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(40):
        distances = rng.lognormal(size=60)
        first, second = synthetic(2.0 * distances), synthetic(distances * rng.lognormal(0, 0.1, 60))
        low, high = first.compare(second).ratio_interval
        hits += low <= 2.0 <= high
    assert hits >= 33, "about 95 %"


def test_comparison_of_strangers_is_refused():
    mine = synthetic([0.1, 0.2])
    for other in (synthetic([0.1, 0.2], norm="linf"), synthetic([0.1, 0.2], digest="e" * 64)):
        with pytest.raises(ValueError, match="expected the same norm and images"):
            mine.compare(other)


def test_reports_of_other_images_have_other_digests(report, target, x, y):
    def digest(x, y):
        attacks = [FGSM("l2", 0)]
        return kp.evaluate(target, x, y, norm="l2", epsilons=0.2, attacks=attacks).digest

    assert digest(x, y) == report.digest
    assert len({report.digest, digest(x[::-1], y[::-1]), digest(x, (y + 1) % 3)}) == 3


# Alarms


def test_an_honest_model_raises_no_alarm(report):
    assert report.alarms == ()


@pytest.mark.skipif(JAX, reason="one norm will do on JAX")
@pytest.mark.parametrize("norm", ["linf", pytest.param("l1", marks=pytest.mark.slow)])
def test_an_honest_model_raises_no_alarm_in_other_norms(target, x, y, norm):
    epsilons = {"linf": [0.02, 0.1], "l1": [0.1, 0.4]}[norm]
    assert kp.evaluate(target, x, y, norm=norm, epsilons=epsilons).alarms == ()


def alarms_of(model, x, y, **settings):
    settings = {"norm": "l2", "epsilons": 0.2, "attacks": [FGSM("l2", 0)], **settings}
    return kp.evaluate(model, x, y, **settings).alarms


class Noisy(keras.Model):
    """Noise at inference."""

    def __init__(self):
        super().__init__()
        self.inner = linear()
        self.generator = keras.random.SeedGenerator(0)

    def call(self, x):
        return self.inner(x + keras.random.normal(ops.shape(x), stddev=0.1, seed=self.generator))


def test_alarm_random_outputs(x, y):
    assert any("outputs are random" in alarm for alarm in alarms_of(Noisy(), x, y))


def test_alarm_probabilities(x, y):
    found = alarms_of(linear(head=layers.Softmax()), x, y)
    assert len(found) == 1 and "returns probabilities" in found[0]


def test_alarm_zero_gradients(x, y):
    right = classes(linear(), x)
    huge = alarms_of(linear(scale=1e6), x, right)
    assert any("vanishes at 100 %" in alarm for alarm in huge)
    saturated = alarms_of(linear(scale=1e6, head=layers.Softmax()), x, right)
    assert any("vanishes at 100 %" in alarm for alarm in saturated)
    assert any("returns probabilities" in alarm for alarm in saturated)


def test_alarm_gradients_that_are_not_finite(x):
    """A root has slope infinity at black pixels."""
    inputs = keras.Input((SIZE,))
    base = linear()
    model = keras.Model(inputs, base(ops.sqrt(inputs)))
    black = x.copy()
    black[:, 0] = 0
    found = alarms_of(model, black, classes(model, black))
    assert any("NaN or infinite" in alarm for alarm in found)
    assert not any("NaN or infinite" in alarm for alarm in alarms_of(model, x, classes(model, x)))


def run_of(accuracy, epsilon=0.2, name="PGD", **config):
    config = {"class": name, "loss": "ce", "norm": "l2", "epsilon": epsilon, **config}
    return AttackRun(f"{name}-{config.get('steps', 1)}-ce", config, epsilon, accuracy, 1, 1, 1.0)


def test_alarm_accuracy_grows_with_epsilon():
    up = [run_of(0.50, 0.1, steps=10), run_of(0.60, 0.2, steps=10)]
    assert "more accuracy at epsilon 0.2 (60.0 %)" in alarms.grows_with_epsilon(up)
    assert alarms.grows_with_epsilon(up[::-1])
    quiet = [
        [run_of(0.60, 0.1, steps=10), run_of(0.50, 0.2, steps=10)],
        [run_of(0.50, 0.1, steps=10), run_of(0.51, 0.2, steps=10)],  # an image more or less
        [run_of(0.50, 0.1, name="FGSM"), run_of(0.60, 0.2, name="FGSM")],  # overshoots
        [run_of(0.50, 0.1, steps=10), run_of(0.60, 0.2, steps=20)],  # another attack
        [run_of(0.50, 0.1, steps=10, seed=0), run_of(0.60, 0.1, steps=10, seed=1)],
        [run_of(0.50, None), run_of(0.60, None)],
    ]
    for runs in quiet:
        assert alarms.grows_with_epsilon(runs) is None


def test_alarm_fewer_steps_are_stronger():
    for few in (run_of(0.50, steps=10), run_of(0.50, name="FGSM")):
        assert "less accuracy (50.0 %)" in alarms.falls_with_fewer_steps(
            [few, run_of(0.60, steps=20)]
        )
    quiet = [
        [run_of(0.60, steps=10), run_of(0.50, steps=20)],
        [run_of(0.50, steps=10), run_of(0.51, steps=20)],
        [run_of(0.50, 0.3, steps=10), run_of(0.60, 0.2, steps=20)],  # another epsilon
        [run_of(0.50, steps=10, loss="dlr"), run_of(0.60, steps=20)],  # another loss
        [run_of(0.50, steps=10, restarts=9), run_of(0.60, steps=20)],  # more runs
        [run_of(0.50, name="Better", steps=10), run_of(0.60, steps=20)],  # another attack
        [run_of(0.50, None, steps=10), run_of(0.60, None, steps=20)],
    ]
    for runs in quiet:
        assert alarms.falls_with_fewer_steps(runs) is None


class Masked(keras.Model):
    """The logits of `linear` with gradients of another size, or sign: away from the boundary."""

    def __init__(self, slope):
        super().__init__()
        self.inner, self.slope = linear(), slope

    def call(self, x):
        z = self.inner(x)
        return ops.stop_gradient(z) + self.slope * (z - ops.stop_gradient(z))


def test_alarm_survives_everything(x):
    model = Masked(slope=-1.0)
    found = alarms_of(model, x, classes(model, x))
    assert any("where every image can be reached" in alarm for alarm in found)
    assert alarms_of(Masked(slope=1.0), x, classes(model, x)) == ()


class Turning(keras.Model):
    """Gradients are right at the clean images, which lie on a grid, and wrong everywhere else."""

    def __init__(self):
        super().__init__()
        self.inner = linear()

    def call(self, x):
        z = self.inner(x)
        on_grid = ops.all(ops.equal(64.0 * x, ops.round(64.0 * x)), axis=-1, keepdims=True)
        slope = ops.where(on_grid, 1.0, -1.0)
        return ops.stop_gradient(z) + slope * (z - ops.stop_gradient(z))


def test_masked_gradients_trip_alarms_the_whole_way(x):
    grid = np.round(64 * x) / 64
    model = Turning()
    y = classes(model, grid)
    attacks = [FGSM("l2", 0), PGD("l2", 0, steps=5, random_start=False)]
    found = alarms_of(model, grid, y, attacks=attacks, epsilons=[0.05, 0.3])
    assert any("FGSM-ce leaves less accuracy" in alarm for alarm in found)
    honest = alarms_of(linear(), grid, y, attacks=attacks, epsilons=[0.05, 0.3])
    assert honest == ()


def test_alarm_foreign_bounds(x):
    base = linear()
    inputs = keras.Input((SIZE,))
    model = keras.Model(inputs, base(inputs / 255.0))
    y = classes(model, 255 * x)
    found = alarms_of(
        model, 255 * x, y, bounds=(0, 255), attacks=[FGSM("l2", 0, bounds=(0, 255))], epsilons=51
    )
    assert len(found) == 1 and "images lie in (0.0, 255.0)" in found[0]


def test_alarms_are_in_the_table(x, y):
    report = kp.evaluate(
        linear(head=layers.Softmax()), x, y, norm="l2", epsilons=0.2, attacks=[FGSM("l2", 0)]
    )
    assert "ALARM: the model returns probabilities" in report.table()


class Bare(Attack):
    """An attack with a config as small as may be; it does nothing."""

    loss, label, steps = "ce", "bare", 3

    def __init__(self, norm, bounds=(0.0, 1.0)):
        self.norm, self.bounds = norm, bounds

    def start(self, x, keys):
        return {"images": x}

    def advance(self, state, evaluated, x):
        return {"done": ops.ones_like(state["fooled"])}


def test_attacks_of_users_need_no_more_than_norm_and_bounds(target, x, y):
    attacks = (attack for attack in (Bare("l2"), FGSM("l2", 0)))
    report = kp.evaluate(target, x, y, norm="l2", epsilons=0.2, attacks=attacks)
    assert [run.attack for run in report.runs] == ["bare", "FGSM-ce"]
    assert Report.from_json(report.to_json()) == report


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
        ((X, Y), {"epsilons": [0.1, -1]}, "expected positive radii"),
        ((X, Y), {"epsilons": [0.0]}, "expected positive radii"),
        ((X, Y), {"epsilons": np.nan}, "expected positive radii"),
        ((X, Y), {"epsilons": np.inf}, "expected positive radii"),
        ((X, Y), {"norm": "l3", "epsilons": 0.1}, "unknown norm 'l3'"),
        ((X, Y), {"bounds": None, "epsilons": 0.1}, "bounds=None"),
        ((X, Y), {"bounds": (1, 0), "epsilons": 0.1}, "low < high"),
        ((X, Y), {"epsilons": 0.1, "attacks": [PGD("linf", 0.1)]}, "for an evaluation with"),
        ((X, Y), {"epsilons": 0.1, "attacks": [PGD("l2", 0, bounds=None)]}, "same norm and bounds"),
        ((X, Y), {"epsilons": 0.1, "attacks": ["pgd"]}, "'pgd' among the attacks"),
        ((X,), {"epsilons": 0.1}, "without labels"),
        (([],), {"epsilons": 0.1}, "empty dataset"),
        (([(X[0], Y[0])],), {"epsilons": 0.1}, "single examples; batch it"),
        (([X, X],), {"epsilons": 0.1}, "single examples; batch it"),
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
