"""Why step sizes matter: the same network with 5 and with 100 layers, and what training would see.

    python tutorials/stability_landscape.py --out landscape.png

A residual network y_{j+1} = y_j + (10 / N) tanh(K(theta) y_j) is forward Euler for an equation that
does not depend on N. K is a circulant 3x3 matrix with two parameters, whose eigenvalues are 0 and
-3/2 (t1 + t2) +- i sqrt(3)/2 (t1 - t2): the equation is stable, the network only where

    h = 10 / N <= 3 s / (9/4 s^2 + 3/4 d^2),    s = t1 + t2,  d = t1 - t2,

on the square [0.2, 2]^2 that is h <= 1/3, or N >= 30. The task is to find theta = (1, 1) from what
a network of 200 layers puts out for 100 random points. With 5 layers the objective has 30 local
minima and looks different for other points: nothing that generalises can be learned from it.
With 30 or more there is one minimum, and training and test points agree.

Source: lecture "Introduction to deep learning" of the numerical deep learning course by Haber,
Ruthotto and Treister; the counts below are our own measurements.
"""

import argparse

import numpy as np

from keras_pde import integrators

TIME = 10.0
SIDE = np.linspace(0.2, 2.0, 61)


def circulant(t1, t2):
    """`(..., 3, 3)` for parameters of any shape."""
    zero = -t1 - t2
    rows = [[zero, t1, t2], [t2, zero, t1], [t1, t2, zero]]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def network(K, y, layers, scheme="euler"):
    """The output for inputs `(3, points)` and matrices `(..., 3, 3)`."""
    scheme, h = integrators.get(scheme), TIME / layers
    y = np.broadcast_to(y, (*K.shape[:-2], *y.shape))
    for _ in range(layers):
        (y,) = scheme.step(lambda stage, y: np.tanh(K @ y), (y,), h)
    return y


def surface(layers, points, scheme="euler"):
    """The objective, `(61, 61)`: half the mean squared distance from the network of 200 layers."""
    t1, t2 = np.meshgrid(SIDE, SIDE, indexing="ij")
    wanted = network(circulant(np.array(1.0), np.array(1.0)), points, 200)
    found = network(circulant(t1, t2), points, layers, scheme)
    return 0.5 * np.sum((found - wanted) ** 2, axis=(-2, -1)) / points.shape[-1]


def local_minima(values):
    """How many entries are lower than all their neighbours, up to eight of them."""
    padded = np.pad(values, 1, constant_values=np.inf)
    n, m = values.shape
    shifts = [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    neighbours = np.stack([padded[i : i + n, j : j + m] for i, j in shifts])
    return int(np.sum(values < neighbours.min(0)))


def points(seed, count=100):
    return np.random.default_rng(seed).normal(size=(3, count))


def draw(path, layers=(5, 100)):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 8), layout="constrained")
    axes = figure.subplots(2, 2, subplot_kw={"projection": "3d"})
    t1, t2 = np.meshgrid(SIDE, SIDE, indexing="ij")
    for row, n in zip(axes, layers, strict=True):
        for panel, (name, seed) in zip(row, {"training": 0, "test": 1}.items(), strict=True):
            values = surface(n, points(seed))
            panel.plot_surface(t1, t2, values, cmap="viridis", rcount=61, ccount=61)
            panel.set(xlabel="theta 1", ylabel="theta 2", title=f"{n} layers, {name} points")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="landscape.png", help="picture of the four surfaces")
    options = parser.parse_args()
    print("layers  local minima  largest difference between training and test points")
    for layers in (5, 10, 15, 30, 100):
        training, test = surface(layers, points(0)), surface(layers, points(1))
        print(f"{layers:6}  {local_minima(training):12}  {abs(training - test).max():.4f}")
    draw(options.out)
    print(f"Four surfaces: {options.out}")


if __name__ == "__main__":
    main()
