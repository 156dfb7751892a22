"""Write the embedded sample of Fashion-MNIST, keras_pde/samples/fashion_mnist.npz.

The images are the original ones; training and test images come from the true splits, evenly from
all classes. The same arguments give the same arrays.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np

from keras_pde import data

TARGET = data.available()[data.SAMPLE]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data-dir", help="folder of TensorFlow Datasets with fashion_mnist")
    parser.add_argument("--train", type=int, default=5500, help="number of training images")
    parser.add_argument("--test", type=int, default=1000, help="number of test images")
    parser.add_argument("--seed", type=int, default=0, help="which images are taken")
    parser.add_argument("--output", type=Path, default=TARGET, help="file to write")
    arguments = parser.parse_args()

    full = data.load("fashion_mnist", data_dir=arguments.data_dir)
    arrays = {"class_names": np.array(full.class_names)}
    for split, x, y, count in (
        ("train", full.x_train, full.y_train, arguments.train),
        ("test", full.x_test, full.y_test, arguments.test),
    ):
        kept = data.balanced_order(y, arguments.seed)[:count]
        arrays[f"x_{split}"] = np.rint(x[kept] * 255).astype("uint8")
        arrays[f"y_{split}"] = y[kept].astype("uint8")
        print(f"{split}: {count} images, per class {np.bincount(y[kept]).tolist()}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arguments.output, **arrays)
    digest = hashlib.sha256(b"".join(arrays[key].tobytes() for key in data.KEYS))
    print(f"{arguments.output}: {arguments.output.stat().st_size} bytes")
    print(f"SHA-256 of {', '.join(data.KEYS)}: {digest.hexdigest()}")


if __name__ == "__main__":
    main()
