"""Inputs with the logits that a saved model gave for them: what proves that it came back."""

import io
import math
import zipfile

import keras
import numpy as np

from keras_pde.hub.files import parsing, read

GOLDEN = "golden.npz"
EXAMPLES = 4
_LIMIT = 2**24  # bytes


def compute_logits(model, inputs):
    outputs = model(inputs, training=False)
    if isinstance(outputs, dict | list | tuple):
        raise ValueError(
            f"Received a model whose outputs are a {type(outputs).__name__}; expected one tensor, "
            "the logits."
        )
    return keras.ops.convert_to_numpy(outputs).astype("float32")


def check_golden(model, card, path):
    data = read(path, _LIMIT, card.digests.get(GOLDEN, "none"))
    with parsing(path), zipfile.ZipFile(io.BytesIO(data)) as archive:
        inputs = _read_array(archive, "inputs.npy", (EXAMPLES, *card.input_shape))
        golden = _read_array(archive, "logits.npy", (EXAMPLES, len(card.classes)))
        if not np.isfinite(golden).all():
            raise ValueError("golden logits are not finite")
    error, limit = difference(compute_logits(model, inputs), golden, card)
    if not error <= limit:  # so that NaN fails
        raise ValueError(
            f"Received weights with {path} whose logits differ from the golden ones by "
            f"{error:.3g}; expected at most {limit:.3g}. Saved with "
            f"keras {card.keras_version} and keras_pde {card.keras_pde_version}; loaded with keras "
            f"{keras.__version__}, dtype policy {keras.config.dtype_policy().name}."
        )


def difference(logits, golden, card):
    """The largest difference, and the largest that is accepted."""
    error = np.max(np.abs(logits - golden)) if logits.shape == golden.shape else math.inf
    return error, card.golden_tolerance * np.max(np.abs(golden))


def _read_array(archive, name, shape):
    """A float32 array of that shape; the header is compared before the numbers are read."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed; expected the format of np.savez")
    with archive.open(name) as member:
        np.lib.format.read_magic(member)
        found, fortran_order, dtype = np.lib.format.read_array_header_1_0(member)
        if (found, fortran_order, dtype) != (shape, False, np.dtype("<f4")):
            raise ValueError(f"{name} is {dtype} {found}; expected float32 {shape}")
        return np.frombuffer(member.read(4 * math.prod(shape)), "<f4").reshape(shape)
