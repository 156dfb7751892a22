"""Weights files and golden files that lie, and what the loader says of them."""

import os
import zipfile

import h5py
import numpy as np
from hub_cases import SHAPE

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


def huge_array(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name, shape in (("inputs", (4, *SHAPE)), ("logits", (2**40, 3))):
            header = {"shape": shape, "fortran_order": False, "descr": "<f4"}
            with archive.open(name + ".npy", "w") as member:
                np.lib.format.write_array_header_1_0(member, header)
                member.write(bytes(4 * 64))
