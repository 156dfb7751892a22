"""Saved models: what is saved comes back, and nothing else is let in."""

import errno
import json
import os
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest

from keras_pde import hub, registry
from keras_pde.hub import Card, load_card, load_model, save_model

SHAPE = (4, 4, 1)
FILES = ["card.json", "golden.npz", "model.weights.h5"]


def mlp(width=6, activation="tanh"):
    layers = keras.layers
    inputs = x = keras.Input(SHAPE)
    x = layers.BatchNormalization()(layers.Flatten()(x))
    for _ in range(3):  # the last two have equal shapes
        x = layers.Dense(width, activation=activation)(x)
    return keras.Model(inputs, layers.Dense(3)(layers.Dropout(0.5)(x)))


@pytest.fixture(scope="module", autouse=True)
def row():
    registry.register("model", "hub_test_mlp")(mlp)
    yield
    del registry._entries["model", "hub_test_mlp"]


def make_fields():
    return {
        "architecture": "hub_test_mlp",
        "arguments": {"width": 6},
        "title": "Tiny",
        "dataset": "none",
        "input_shape": SHAPE,
        "classes": ["cat", "dog", "bœuf"],
        "licence": "Apache-2.0",
        "caveats": ["untrained"],
        "metrics": {"clean": {"accuracy": np.float32(0.5), "examples": 100}},
        "provenance": {"seed": 3},
    }


def make_model():
    keras.utils.set_random_seed(1)
    return mlp()


@pytest.fixture
def fields():
    return make_fields()


@pytest.fixture
def model():
    return make_model()


@pytest.fixture(scope="module")
def original(tmp_path_factory, row):
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    save_model(make_model(), folder, make_fields())
    return folder


@pytest.fixture
def saved(tmp_path, original):
    return shutil.copytree(original, tmp_path / "tiny")


def logits(model):
    x = np.random.default_rng(5).random((7, *SHAPE), dtype="float32")
    return keras.ops.convert_to_numpy(model(x))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def edit_card(folder, **changes):
    path = folder / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def sign(folder):
    """What somebody who can edit the card does after exchanging a file."""
    files = [folder / name for name in FILES[1:]]
    edit_card(folder, digests={path.name: hub._sha256(path.read_bytes()) for path in files})


def refused(folder, match):
    with pytest.raises(ValueError, match=match):
        load_model(folder)


# What is saved comes back


def test_round_trip(saved, model, fields):
    loaded = load_model(saved)
    np.testing.assert_array_equal(logits(loaded), logits(model))
    assert sorted(contents(saved)) == FILES and os.listdir(saved.parent) == ["tiny"]
    card = load_card(saved)
    assert card.parameters == model.count_params()
    assert card.classes == ("cat", "dog", "bœuf") and card.input_shape == SHAPE
    assert card.metrics == {"clean": {"accuracy": 0.5, "examples": 100}}
    assert card.keras_version == keras.__version__
    assert Card.from_json(card.to_json()) == card


def test_card_can_be_saved_again(saved, model):
    card = save_model(model, saved, load_card(saved), overwrite=True)
    assert card == load_card(saved)
    assert os.listdir(saved.parent) == ["tiny"]


def test_optimizer_is_not_saved(tmp_path, model, fields):
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    save_model(model, tmp_path / "new" / "deep", fields)
    load_model(tmp_path / "new" / "deep")
    with h5py.File(tmp_path / "new" / "deep" / "model.weights.h5") as file:
        assert set(file) == {"layers", "vars"}


# What cannot be saved


@pytest.mark.parametrize("arguments", [{"width": 5}, {"activation": "relu"}])
def test_model_that_its_card_does_not_rebuild(tmp_path, model, fields, arguments):
    with pytest.raises(ValueError, match="does not rebuild"):
        save_model(model, tmp_path / "tiny", fields | {"arguments": arguments})
    assert os.listdir(tmp_path) == []


def test_model_must_give_finite_logits_of_the_classes(tmp_path, model, fields):
    with pytest.raises(ValueError, match=r"expected finite logits \(4, 2\)"):
        save_model(model, tmp_path / "tiny", fields | {"classes": ["a", "b"]})
    model.set_weights([w * np.nan for w in model.get_weights()])
    with pytest.raises(ValueError, match="all finite: False"):
        save_model(model, tmp_path / "tiny", fields)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"architecture": "hub_test_mpl"}, "Did you mean 'hub_test_mlp'"),
        ({"arguments": {"depth": 3}}, "depth"),
        ({"arguments": {"width": object()}}, "JSON cannot hold"),
        ({"metrics": {"accuracy": float("nan")}}, "JSON cannot hold"),
        ({"license": "MIT"}, "Did you mean 'licence'"),
        ({"parameters": 7}, "unknown field"),
        ({"title": 7}, "title=7; expected str"),
        ({"classes": [0, 1, 2]}, "expected tuple.str"),
        ({"input_shape": (True, 4, 1)}, "expected tuple.int"),
        ({"input_shape": (None, 4, 1)}, "expected tuple.int"),
        ({"input_shape": (0, 4, 1)}, "positive"),
        ({"bounds": (0, 255)}, "normalisation inside"),
        ({"layout": "NCHW"}, "NHWC"),
    ],
)
def test_wrong_field(tmp_path, model, fields, change, match):
    with pytest.raises(ValueError, match=match):
        save_model(model, tmp_path / "tiny", fields | change)
    assert os.listdir(tmp_path) == []


def test_not_a_model(tmp_path, fields):
    with pytest.raises(ValueError, match="type str; expected a keras"):
        save_model("mlp", tmp_path / "tiny", fields)


def test_missing_field(tmp_path, model, fields):
    del fields["licence"]
    with pytest.raises(ValueError, match=r"without \['licence'\]"):
        save_model(model, tmp_path / "tiny", fields)


# All or nothing


def test_existing_folder(tmp_path, saved, model, fields):
    before = contents(saved)
    with pytest.raises(ValueError, match="overwrite=True"):
        save_model(model, saved, fields)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "only_copy.tex").touch()
    with pytest.raises(ValueError, match="other things"):
        save_model(model, tmp_path / "thesis", fields, overwrite=True)
    assert contents(saved) == before and (tmp_path / "thesis" / "only_copy.tex").exists()


def fail_in(monkeypatch, place, error):
    owner, name = place.rsplit(".", 1)
    owner = {"os": os, "np": np, "Model": keras.Model, "hub": hub}[owner]

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(owner, name, fail)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", ["Model.save_weights", "np.savez", "hub.load_model", "os.fsync"])
@pytest.mark.parametrize("exists", [False, True])
def test_failure_changes_nothing(tmp_path, model, fields, monkeypatch, exists, place, error):
    folder = tmp_path / "tiny"
    if exists:
        save_model(model, folder, fields)
    before = contents(folder) if exists else None
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        fail_in(patch, place, error)
        save_model(model, folder, fields | {"title": "New"}, overwrite=True)
    assert os.listdir(tmp_path) == (["tiny"] if exists else [])
    assert not exists or contents(folder) == before


@pytest.mark.parametrize("error", [OSError(errno.EIO, "bad disk"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", [1, 2])
def test_failed_exchange_brings_the_old_back(saved, model, fields, monkeypatch, call, error):
    before, rename, calls = contents(saved), os.replace, []

    def fail(source, target):
        calls.append(target)
        if len(calls) == call:
            raise error
        rename(source, target)

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(os, "replace", fail)
        save_model(model, saved, fields, overwrite=True)
    assert len(calls) >= call and contents(saved) == before
    assert os.listdir(saved.parent) == ["tiny"]


def test_folder_that_appears_meanwhile_is_kept(tmp_path, model, fields, monkeypatch):
    def load(folder):
        (tmp_path / "tiny").mkdir()
        (tmp_path / "tiny" / "theirs").touch()

    monkeypatch.setattr(hub, "load_model", load)
    with pytest.raises(OSError, match="not empty"):
        save_model(model, tmp_path / "tiny", fields)
    assert os.listdir(tmp_path) == ["tiny"] and os.listdir(tmp_path / "tiny") == ["theirs"]


# Damage and mix-ups


def test_missing_files(saved):
    refused(saved.parent / "tinny", "does not exist")
    for name in ("golden.npz", "model.weights.h5"):
        (saved / name).rename(saved / "aside")
        refused(saved, f"without its {name}; expected a file with SHA-256")
        (saved / "aside").rename(saved / name)
    load_model(saved)
    (saved / "card.json").unlink()
    refused(saved, "without its card.json")


@pytest.mark.parametrize("name", ["golden.npz", "model.weights.h5"])
def test_damage_is_found_before_parsing(saved, name, monkeypatch):
    data = bytearray((saved / name).read_bytes())
    data[len(data) // 2] ^= 1
    (saved / name).write_bytes(data)
    parse = monkeypatch.setattr
    if name == "golden.npz":
        parse(zipfile, "ZipFile", None)
    else:
        parse(hub, "_check_layout", None)
    refused(saved, "its card expects")


def test_weights_of_another_model(saved, model, fields):
    other = mlp()
    save_model(other, saved.parent / "other", fields)
    stolen = (saved.parent / "other" / "model.weights.h5").read_bytes()
    (saved / "model.weights.h5").write_bytes(stolen)
    refused(saved, "belongs to another model")
    sign(saved)
    refused(saved, "differ from the golden")


def test_larger_file_than_the_model(saved):
    with open(saved / "model.weights.h5", "ab") as file:
        file.truncate(2**22)
    sign(saved)
    refused(saved, "more than")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"architecture": "hub_test_mpl"}, "Did you mean 'hub_test_mlp'"),
        ({"arguments": {"width": 7}}, "the card was edited"),
        ({"arguments": {"width": 6, "activation": "relu"}}, "differ from the golden"),
        ({"arguments": {"wide": 7}}, "wide"),
        ({"parameters": 1}, "parameters=1"),
        ({"parameters": "187"}, "expected int"),
        ({"digests": {}}, "expects none"),
        ({"golden_tolerance": 1e9}, "golden_tolerance"),
        ({"golden_tolerance": float("nan")}, "NaN is not a number"),
        ({"classes": ["a"]}, "golden.npz"),
        ({"schema": 2, "robots": []}, "newer keras_pde"),
        ({"lisence": "MIT"}, "Did you mean 'licence'"),
    ],
)
def test_edited_card(saved, changes, match):
    edit_card(saved, **changes)
    refused(saved, match)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 100_000, b"\xff\xfe\xfa", "{}"])
def test_no_card_at_all(saved, text):
    (saved / "card.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(saved, "Received a card")


def test_endless_card(saved):
    (saved / "card.json").write_bytes(b" " * 2**21)
    refused(saved, "more than")


# Forged files under a signed card

DENSE = "layers/dense/vars/0"
DIFFERENT = "differ from the golden"


def replaced(create):
    def forge(file):
        shape = file[DENSE].shape
        del file[DENSE]
        create(file, shape)

    return forge


def external_storage(file, shape):
    secret = os.path.join(os.path.dirname(file.filename), "secret")
    with open(secret, "wb") as stream:
        stream.write(b"secret" * 1000)
    file.create_dataset(DENSE, shape, "f4", external=[(secret, 0, h5py.h5f.UNLIMITED)])


def virtual(file, shape):
    layout = h5py.VirtualLayout(shape, "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape)
    file.create_virtual_dataset(DENSE, layout)


def swapped(file):
    for kind in "01":
        first, second = file[f"layers/dense_1/vars/{kind}"], file[f"layers/dense_2/vars/{kind}"]
        first[...], second[...] = second[...], first[...]


FORGERIES = {
    "shape bomb": (
        replaced(lambda file, _: file.create_dataset(DENSE, (2**31,), "f4", chunks=(2**20,))),
        "2147483648",
    ),
    "small bomb": (
        replaced(lambda file, _: file.create_dataset(DENSE, (2**28,), "f4", compression="gzip")),
        "268435456",
    ),
    "compressed": (
        replaced(lambda file, shape: file.create_dataset(DENSE, shape, "f4", compression="gzip")),
        "chunks",
    ),
    "external storage": (replaced(external_storage), r"stored with \['external'\]"),
    "virtual": (replaced(virtual), "is_virtual"),
    "soft link": (
        replaced(lambda file, _: file.__setitem__(DENSE, h5py.SoftLink("/layers/dense_1/vars/0"))),
        "SoftLink",
    ),
    "external link": (
        replaced(lambda file, _: file.__setitem__(DENSE, h5py.ExternalLink("x.h5", "/x"))),
        "ExternalLink",
    ),
    "type": (replaced(lambda file, shape: file.create_dataset(DENSE, shape, "f8")), "float64"),
    "strings": (
        replaced(lambda file, shape: file.create_dataset(DENSE, shape, h5py.string_dtype())),
        "object",
    ),
    "named type": (
        replaced(lambda file, _: file.__setitem__(DENSE, np.dtype("f4"))),
        "neither a group nor a dataset",
    ),
    "group": (replaced(lambda file, _: file.create_group(DENSE)), "a group"),
    "missing": (replaced(lambda file, _: None), "lacks"),
    "superfluous": (lambda file: file.create_group("layers/spy"), "spy"),
    "path": (lambda file: file.create_dataset("layers/..", data=1.0), r"'\.\.'"),
    "group in itself": (
        replaced(lambda file, _: file.__setitem__(DENSE, file["layers/dense"])),
        "a group",
    ),
    "not a number": (
        lambda file: file[DENSE].write_direct(np.full((16, 6), np.nan, "f4")),
        DIFFERENT,
    ),
    "two equal layers swapped": (swapped, DIFFERENT),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_weights(saved, name, monkeypatch):
    forge, match = FORGERIES[name]
    if match != DIFFERENT:
        monkeypatch.setattr(keras.Model, "load_weights", None)  # refused before a number is read
    with h5py.File(saved / "model.weights.h5", "a") as file:
        forge(file)
    assert (saved / "model.weights.h5").stat().st_size < 2**17
    sign(saved)
    refused(saved, match)


def test_not_hdf5(saved):
    (saved / "model.weights.h5").write_bytes(b"PK" * 100)
    sign(saved)
    refused(saved, "damaged, made for another model or forged")


def huge_array(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name, shape in (("inputs", (4, *SHAPE)), ("logits", (2**40, 3))):
            header = {"shape": shape, "fortran_order": False, "descr": "<f4"}
            with archive.open(name + ".npy", "w") as member:
                np.lib.format.write_array_header_1_0(member, header)
                member.write(bytes(4 * 64))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: np.savez(path, inputs=np.array([object()]), logits=np.array([object()])),
        lambda path: np.savez(path, inputs=np.zeros((4, *SHAPE), "f4")),
        lambda path: np.savez_compressed(
            path, inputs=np.zeros((4, *SHAPE), "f4"), logits=np.zeros((4, 3), "f4")
        ),
        lambda path: np.savez(path, inputs=np.zeros((4, *SHAPE), "f4"), logits=np.zeros((4, 3))),
        lambda path: np.savez(
            path, inputs=np.zeros((4, *SHAPE), "f4"), logits=np.full((4, 3), np.inf, "f4")
        ),
        huge_array,
        lambda path: path.write_bytes(b"PK"),
    ],
    ids=["pickle", "missing", "compressed", "type", "infinite", "huge", "not a zip"],
)
def test_forged_golden(saved, write):
    write(saved / "golden.npz")
    sign(saved)
    refused(saved, r"golden\.npz, which is damaged")
