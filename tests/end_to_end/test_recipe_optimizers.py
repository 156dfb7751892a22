"""Optimizers in recipes: their rates, what is kept of their weights, and how they resume."""

import keras
import numpy as np
import pytest
from recipe_cases import (
    assert_same_training,
    history,
    quietly,
    short,
)

from keras_pde import recipes
from keras_pde.recipes import build

pytestmark = pytest.mark.usefixtures("toy")


def resumed_as_whole(toy, tmp_path):
    """The training, which one that stops after an epoch and is resumed equals.

    Also the arrays that the one epoch leaves: what is kept, and what is resumed.
    """
    options = {"evaluate": False, "say": quietly}
    whole = recipes.train(toy, tmp_path / "whole", **options)
    run = recipes.train(toy, tmp_path / "run", max_minutes=0, **options)
    left = [run.read_arrays(name)[0] for name in ("best.npz", "checkpoint.npz")]
    recipes.train(toy, run.path, resume=True, **options)
    assert_same_training(run, whole)
    return whole, *left


def test_weight_decay_is_about_kernels_or_all(folder):
    loaded = build.dataset(short(folder))[0]
    for decay, expected in (("kernels", {2, 4}), ("all", {1, 2, 4})):
        robust = build.robust_model(short(folder, **{"training.decay": decay}), loaded, 8)
        variables = robust.trainable_variables
        decayed = [v for v in variables if robust.optimizer._use_weight_decay(v)]
        assert {len(v.shape) for v in decayed} == expected


def test_cyclic_optimizers_keep_anchors_and_resume_within_cycles(folder, tmp_path):
    """Four batches an epoch in cycles of three; what is kept is evaluated, and not trained on."""
    entropy = {"name": "entropy_sgd", "inner_steps": 3, "temperature": 1e-4}
    entropy |= {"scope": 0.1, "weight_decay": 1e-3}  # of the base class
    toy = short(folder, optimizer=entropy, **{"training.epochs": 3, "training.average": 0})
    toy = toy.replaced({"validation.select": "last"})
    whole, kept, state = resumed_as_whole(toy, tmp_path)
    assert [row["scope"] for row in history(whole)] == pytest.approx(
        [0.1 * 1.001**cycles for cycles in (1, 2, 4)]
    )
    # After four batches, a cycle and a third, the anchor is kept, and y is resumed.
    same = [a.shape == kept[0].shape and np.array_equal(a, kept[0]) for a in state]
    assert not same[0]
    assert sum(same) == 1


def test_cycles_longer_than_the_training_are_refused(folder, tmp_path):
    """Four batches an epoch: nothing but the initial weights would be kept."""
    for name, cycle in (("entropy_sgd", "inner_steps"), ("lookahead", "sync_period")):
        toy = short(folder, optimizer={"name": name, cycle: 9}, **{"training.epochs": 2})
        with pytest.raises(ValueError, match=r"cycles of 9 batches for a training of 8.*at most 4"):
            recipes.train(toy, tmp_path / name, evaluate=False, say=quietly)


@pytest.mark.slow
def test_moving_averages_of_weights_are_kept_and_resumed(folder, tmp_path):
    """`use_ema` of any optimizer: what is kept is the average, and not trained on."""
    sgd = {"name": "sgd", "use_ema": True, "ema_momentum": 0.5}
    toy = short(folder, optimizer=sgd, **{"training.epochs": 3, "training.average": 0})
    toy = toy.replaced({"validation.select": "last"})
    _, kept, state = resumed_as_whole(toy, tmp_path)
    same = [i for i, a in enumerate(state) if np.array_equal(a, kept[0])]
    assert len(same) == 1  # the optimizer's average, after the weights
    assert same[0] > 0


def test_optimizers_other_than_sgd_have_rates_of_their_own(folder):
    for name, default in (("entropy_sgd", 1.0), ("salr", 0.5), ("adam", 0.001)):
        alone = short(folder, optimizer={"name": name})
        assert float(build.optimizer(alone, 100).learning_rate) == pytest.approx(default)
        told = alone.replaced({"schedule": {"name": "constant", "rate": 0.25}})
        assert float(build.optimizer(told, 100).learning_rate) == 0.25


@pytest.mark.slow
def test_an_optimizer_that_sees_the_loss_trains_in_mixed_precision(folder, tmp_path):
    toy = short(folder, optimizer={"name": "salr"}, **{"training.precision": "mixed_float16"})
    run = recipes.train(toy, tmp_path / "run", evaluate=False, say=quietly)
    assert all(row["last_rate"] > 0 for row in history(run))


def test_an_optimizer_around_another(folder):
    schedule = {"name": "one_cycle", "peak": 0.1}
    sam = {"name": "sam", "rho": 0.1, "inner_optimizer": {"name": "adam"}}
    toy = short(folder, optimizer=sam, schedule=schedule)
    made = build.optimizer(toy, steps=100)
    assert (made.rho, type(made.inner_optimizer)) == (0.1, keras.optimizers.Adam)
    # The schedule counts the inner optimizer's steps: 50 of two batches each.
    made.inner_optimizer.build([keras.Variable([1.0])])
    made.inner_optimizer.iterations.assign(50)
    assert float(made.learning_rate) == pytest.approx(0)
    short_form = build.optimizer(
        short(folder, optimizer={"name": "sam", "inner_optimizer": "adam"}), 100
    )
    assert isinstance(short_form.inner_optimizer, keras.optimizers.Adam)
    for inner in (3, {"momentum": 0.9}, {"name": "adamm"}):
        with pytest.raises(ValueError, match=r"a name, such as|adamm.*Did you mean"):
            build.optimizer(short(folder, optimizer={"name": "sam", "inner_optimizer": inner}), 100)
