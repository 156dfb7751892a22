"""Layers with weights that do not depend on the backend, and what TensorFlow makes of them.

`python tests/cases/layer_cases.py` rewrites the golden numbers.
"""

import json
import pathlib

import numpy as np
from keras import ops

from keras_pde import registry

GOLDEN = pathlib.Path(__file__).with_name("golden_layers.json")
SHAPES = {2: (6,), 3: (7, 6), 4: (8, 6, 4)}


def build(entry):
    """The layer with its example arguments, built, and an input of the rank it asks for."""
    layer = entry.component(**entry.example)
    spec = layer.input_spec
    shape = SHAPES[(spec and (spec.ndim or spec.min_ndim)) or 4]
    x = np.random.default_rng(0).normal(size=(5, *shape)).astype("float32")
    layer.build(x.shape)
    return layer, x


def outputs(entry, training):
    """Some numbers of the output, for weights that NumPy draws; variances are positive."""
    layer, x = build(entry)
    rng = np.random.default_rng(2)
    for variable in layer.variables:
        if "int" not in variable.dtype:
            values = 0.3 * rng.normal(size=variable.shape)
            variable.assign(1 + abs(values) if "variance" in variable.path else values)
    y = ops.convert_to_numpy(layer(ops.convert_to_tensor(x), training=training))
    return np.ravel(y)[:: max(y.size // 16, 1)].tolist()


def main():
    found = {
        entry.name: {mode: outputs(entry, mode == "training") for mode in ("inference", "training")}
        for entry in registry.entries("layer")
    }
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
