"""The list of published models: filters, commands, boards."""

import json

import pytest
from hub_cases import complete_fields, make_row

import keras_pde as kp
from keras_pde import cli, hub
from keras_pde.hub import board, index, load
from keras_pde.hub.listing import Listing
from keras_pde.hub.publishing import Place

pytestmark = pytest.mark.usefixtures("row")


@pytest.fixture
def three(clone):
    rows = [make_row(), make_row(norm="l2", epsilon=8 / 255, robust_accuracy=0.4)]
    changes = {
        "c": {"measurements": rows[1:], "dataset": "cifar10"},
        "b": {"measurements": rows[:1], "dataset": "mnist", "data_tier": "synthetic"},
        "a": {"measurements": rows, "dataset": "mnist"},
    }
    listed = {}
    for name, change in changes.items():
        card = hub.Card(**complete_fields(name=name, **change), parameters=271)
        (load.SAVED_MODELS / name).mkdir(parents=True)
        (load.SAVED_MODELS / name / "card.json").write_text(card.to_json())
        listed[name] = Listing.of(card.to_json().encode())
    index.PACKAGE_INDEX.write_text(index.index_text(listed))
    Place.clone().write_boards()


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ({}, "abc"),
        ({"dataset": "mnist"}, "ab"),
        ({"dataset": "fashion_mnist"}, ""),
        ({"norm": "l2"}, "ac"),
        ({"norm": "l2", "epsilon": 8 / 255}, "ac"),
        ({"norm": "linf", "epsilon": 8 / 255}, ""),
        ({"data_tier": "none"}, "ac"),
        ({"architecture": "hub_test_mlp"}, "abc"),
        ({"architecture": "lenet"}, ""),
        ({"max_params": 10}, ""),
        ({"max_params": 10**6, "norm": "l1"}, ""),
        ({"min_robust": 0.45}, "ab"),
        ({"min_robust": 0.45, "norm": "l2"}, ""),
    ],
)
def test_list_is_filtered(three, wanted, names):
    assert [card.name for card in kp.list_models(**wanted)] == list(names)


def test_a_list_shows_the_measurements_that_were_asked_for(three):
    """Not all those of a model of which one fits."""
    rows = str(kp.list_models()).count("linf"), str(kp.list_models(norm="l2")).count("linf")
    assert rows[0] and not rows[1]
    assert str(kp.list_models(norm="l2")).count("l2 ") == 2


@pytest.mark.parametrize(
    ("wanted", "match"),
    [
        ({"dataset": "minst"}, "Did you mean 'mnist'"),
        ({"norm": "linfty"}, "Did you mean 'linf'"),
        ({"architecture": "lennet"}, "Did you mean 'lenet'"),
        ({"data_tier": "reel"}, "Did you mean 'real'"),
    ],
)
def test_list_of_what_does_not_exist(three, wanted, match):
    with pytest.raises(ValueError, match=match):
        kp.list_models(**wanted)


def test_commands(clone, run, capsys):
    assert cli.main(["publish", str(run), "--name", "toy/other", "--float16"]) == 0
    assert "Published toy/other: weights float16" in capsys.readouterr().out
    assert cli.main(["publish", str(run), "--name", "toy/other"]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert cli.main(["list", "--norm", "linf", "--epsilon", "1/10"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 3 and shown[2].split()[:2] == ["toy/other", "271"]
    for fits_none in (["--norm", "l2"], ["--min-robust", "1"]):
        assert cli.main(["list", *fits_none]) == 0
        assert "No published model fits" in capsys.readouterr().out
    assert cli.main(["list", "--json"]) == 0
    (listed,) = kp.list_models()
    assert [Listing.from_dict(m) for m in json.loads(capsys.readouterr().out)] == [listed]
    assert cli.main(["show", "toy/other"]) == 0
    card = hub.load_card("toy/other")
    assert hub.Card.from_json(capsys.readouterr().out) == card
    (clone / "zoo" / "README.md").unlink()
    assert cli.main(["publish"]) == 0
    assert "Drew the boards of 1 models" in capsys.readouterr().out
    assert (clone / "zoo" / "README.md").read_text() == board.page([card])


def test_board_says_what_a_reader_must_know(three, clone):
    page = (clone / "zoo" / "README.md").read_text()
    for text in ("## mnist, linf 0.1", "## cifar10, l2 8/255", "40.0 % - 60.0 %", "synthetic"):
        assert text in page
    assert Place.clone().cards().keys() == {"a", "b", "c"}
    proof = {
        "certified_accuracy": 0.25,
        "certified_interval": [0.1, 0.4],
        "certificate": {"label": "bounds", "config": {}},
    }
    certified = hub.Measurement(**make_row(**proof, alarms=["gradients vanish"]))
    page = board.page([hub.Card(**complete_fields(measurements=[certified]))])
    assert (
        "| 50.0 % (alarm) | 40.0 % - 60.0 % | 25.0 % |" in page
        and "alarm: linf 0.1: gradients vanish" in page
    )


def test_data_of_the_same_name_are_told_apart():
    cards = [
        hub.Card(**complete_fields(name=f"toy/{d}", dataset="mine", provenance={"data_digest": d}))
        for d in (64 * "a", 64 * "b")
    ]
    page = board.page(cards)
    assert page.count("## mine (SHA-256 ") == 2 and "aaaaaaaa)" in page and "bbbbbbbb)" in page
