"""Sums of terms: what they mean, what they are saved as, and what terms refuse."""

import json

import keras
import pytest

from keras_pde import attacks, objectives
from keras_pde.objectives import (
    Adversarial,
    GradientPenalty,
    MaxGradientPenalty,
    Objective,
    Plain,
    Tikhonov,
    Tulip,
)

pytestmark = pytest.mark.usefixtures("float64_module")


class TestComposition:
    adversarial, penalty, largest = (
        Adversarial("l2", 0.1),
        GradientPenalty("l2", 0.1),
        MaxGradientPenalty("l2", 0.2),
    )

    def test_sum_in_any_order_and_grouping(self):
        a, p, m = self.adversarial, self.penalty, self.largest
        expected = Objective(a, [p, m])
        assert a + p + m == expected
        assert a + (p + m) == expected
        assert p + a + m == expected
        assert (p + m) + a == expected
        assert expected.names == ["adversarial", "gradient_penalty", "max_gradient_penalty"]

    def test_a_penalty_alone_means_plain(self):
        objective = self.penalty + self.largest
        assert objective.data == Plain()
        assert objective == Objective(None, [self.penalty, self.largest])
        assert repr(objective) == f"Plain() + {self.penalty} + {self.largest}"

    def test_presets_compose(self):
        assert (Tikhonov("l2", 0.1) + self.adversarial).data == self.adversarial
        objective = Tulip(0.1, 0.2) + self.penalty
        assert objective.data == Adversarial("l2", 0.1)
        assert len(objective.penalties) == 2

    def test_terms_of_one_kind_get_numbers(self):
        objective = self.penalty + GradientPenalty("l1", 1.0) + self.largest + self.penalty
        names = ["plain", "gradient_penalty", "gradient_penalty_2", "max_gradient_penalty"]
        assert objective.names == [*names, "gradient_penalty_3"]

    @pytest.mark.parametrize(
        "make",
        [
            lambda a, p: a + a,
            lambda a, p: a + Plain(),
            lambda a, p: (a + p) + a,
            lambda a, p: Plain() + p + a,
            lambda a, p: Tulip(0.1, 0.1) + a,
        ],
    )
    def test_two_data_terms_are_refused(self, make):
        with pytest.raises(ValueError, match="one data term plus penalties"):
            make(self.adversarial, self.penalty)

    def test_what_is_no_term_is_refused(self):
        for make in (
            lambda: self.adversarial + 1,
            lambda: self.adversarial + "tulip",
            lambda: Objective(self.adversarial, [self.adversarial]),
            lambda: Objective(self.penalty),
        ):
            with pytest.raises(ValueError, match="Received"):
                make()

    def test_a_sum_is_saved(self):
        for objective in (self.adversarial + self.penalty, self.penalty + self.largest):
            saved = json.loads(json.dumps(keras.saving.serialize_keras_object(objective)))
            again = keras.saving.deserialize_keras_object(saved)
            assert again == objective
            assert again.explicit == objective.explicit


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adversarial("l3", 0.1), "unknown norm"),
        (lambda: Adversarial("l2", -0.1), "at least 0"),
        (lambda: Adversarial("l2", 0.1, steps=0), "steps=0"),
        (lambda: Adversarial("l2", 0.1, steps=1.5), "integer"),
        (lambda: Adversarial("l2", 0.1, step_size=0), "finite number above 0"),
        (lambda: Adversarial("l2", 0.1, epsilon_norm="lf"), "Did you mean"),
        (lambda: Adversarial("l2", 0.1, steps=2, epsilon_norm="l2"), "single step"),
        (lambda: Adversarial("l2", 0.1, random_start=True, epsilon_norm="l2"), "single step"),
        (lambda: Adversarial("l2", 0.1, bounds=(1, 0)), "low, high"),
        (lambda: GradientPenalty("l3", 0.1), "unknown norm"),
        (lambda: GradientPenalty("l2", -0.1), "at least 0"),
        (lambda: GradientPenalty("l2", 0.1, power=3), "unknown power 3"),
        (lambda: GradientPenalty("l2", 0.1, method="double_backpro"), "Did you mean"),
        (lambda: GradientPenalty("l2", 0.1, step_size=0), "finite number above 0"),
        (lambda: GradientPenalty("l2", 0.1, fraction=0), "fraction"),
        (lambda: GradientPenalty("l2", 0.1, fraction=1.1), "fraction"),
        (lambda: GradientPenalty("l2", 0.1, at="here"), "unknown `at`"),
        (lambda: GradientPenalty("l2", 0.1, statistics="moving"), "unknown statistics"),
        (lambda: MaxGradientPenalty("l2", -1), "at least 0"),
        (lambda: MaxGradientPenalty("l2", 1, floor=-1), "at least 0"),
        (lambda: MaxGradientPenalty("l2", 1, top_k=0), "top_k=0"),
        (lambda: MaxGradientPenalty("l2", 1, scale="batch"), "Did you mean 'batch_mean'"),
        (lambda: MaxGradientPenalty("l3", 1), "unknown norm"),
        (lambda: Tulip(-1, 0.1), "at least 0"),
        (lambda: Tikhonov("l3", 0.1), "unknown norm"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_objectives_by_name():
    tulip = objectives.get("tulip", epsilon=0.1, weight=0.05)
    assert tulip == objectives.Tulip(0.1, 0.05) and objectives.get(tulip) is tulip
    both = Plain() + objectives.get("gradient_penalty", norm="l2", weight=0.1)
    assert objectives.get(keras.saving.serialize_keras_object(both)) == both
    for wrong, arguments, message in (
        ("tulp", {}, "Did you mean 'tulip'"),
        ("tulip", {"epsilom": 0.1}, "Did you mean 'epsilon'"),
        ("tulip", {"epsilon": 0.1}, r"without \['weight'\]"),
        (tulip, {"weight": 1}, "or a term alone"),
        (None, {}, "Received None"),
    ):
        with pytest.raises(ValueError, match=message):
            objectives.get(wrong, **arguments)


def test_attacks_by_name():
    pgd = attacks.get("pgd", norm="linf", epsilon="8/255", steps=40)
    assert pgd == attacks.PGD("linf", 8 / 255, steps=40) and attacks.get(pgd) is pgd
    assert attacks.get({"class": "PGD", **pgd.get_config()}) == pgd
    for wrong, arguments, message in (
        ("pdg", {}, "Did you mean 'pgd'"),
        ("pgd", {}, r"without \['norm'\]"),
        ({"class": "PDG"}, {}, "Did you mean 'PGD'"),
        ({}, {}, "unknown attack None"),
    ):
        with pytest.raises(ValueError, match=message):
            attacks.get(wrong, **arguments)
