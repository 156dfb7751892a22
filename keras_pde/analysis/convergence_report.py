"""How fast a continuous network converges in depth, and what fewer steps cost it."""

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import ArrayLike

from keras_pde import _keras, cost, figures, graph, integrators
from keras_pde.checks import check_count, class_labels
from keras_pde.data.examples import examples
from keras_pde.layers import ContinuousBlock
from keras_pde.layers.continuous import bases
from keras_pde.models import depth
from keras_pde.records import ToJSON
from keras_pde.text import table
from keras_pde.training import RobustModel, heads

# The reference makes so many times the steps of the finest row.
_FINER = 16
# What a picture shows beside the error: the first that there is.
_SHARES = {"accuracy": "accuracy", "agreement": "agreement with the reference"}


@dataclass(frozen=True)
class SolverResult:
    """The model with one scheme and number of steps.

    Attributes:
        scheme: its name.
        steps: of each block.
        evaluations: of the rates, in all blocks together.
        error: |y - y_ref| / |y_ref|, of what the last block, or else the model, puts out.
        order: log(error before / error) / log(steps / steps before), against the row of the same
            scheme with fewer steps; None in the first.
        aligned: whether no step of any block reaches over a break of its basis.
        accuracy: share of the examples that are classified correctly; None without labels.
        agreement: share of the examples with the class that the reference gives; None where the
            outputs are not known to be classes.
        seconds: of one pass over all examples, the fastest of three.
    """

    scheme: str
    steps: int
    evaluations: int
    error: float
    order: float | None
    aligned: bool
    accuracy: float | None
    agreement: float | None
    seconds: float


@dataclass(frozen=True)
class ConvergenceReport(ToJSON):
    """What `convergence_report` found.

    Attributes:
        name: of the model.
        examples: number of examples.
        reference: the solver that counts as exact, in words.
        rows: one `SolverResult` a scheme and number of steps.
    """

    name: str
    examples: int
    reference: str
    rows: tuple[SolverResult, ...]

    def table(self) -> str:
        """Readable summary."""
        head = ("scheme", "steps", "evaluations", "error", "order", "accuracy", "agreement", "s")
        title = f"{self.name}: convergence in depth, {self.examples} examples"
        notes = [f"Error and agreement: against {self.reference}."]
        if not all(row.aligned for row in self.rows):
            notes.append("*: steps cut elements of the basis, where order is lost.")
        return table(title, head, [_cells(row) for row in self.rows], " ".join(notes))

    def __str__(self) -> str:
        return self.table()

    def plot(self, path=None):
        """Draws error, and accuracy or agreement, against the evaluations of the rates.

        Args:
            path: image file, whose suffix says the format; None writes none.

        Returns:
            A Matplotlib `Figure`.
        """
        shown = next((s for s in _SHARES if getattr(self.rows[0], s) is not None), None)
        figure, panels = figures.new(9 if shown else 4.5, 4, panels=2 if shown else 1)
        errors = panels[0]
        for scheme in dict.fromkeys(row.scheme for row in self.rows):
            rows = [row for row in self.rows if row.scheme == scheme]
            cost = [row.evaluations for row in rows]
            errors.loglog(cost, [row.error for row in rows], "o-", label=scheme)
            if shown:
                panels[1].semilogx(cost, [getattr(row, shown) for row in rows], "o-")
        errors.set(xlabel="evaluations of the rates", ylabel="relative error", title=self.name)
        if shown:
            panels[1].set(
                xlabel="evaluations of the rates",
                ylabel=_SHARES[shown],
                title=f"{self.examples} examples",
            )
        errors.legend()
        return figures.done(figure, path)


def convergence_report(
    model: keras.Model,
    x: ArrayLike,
    y: ArrayLike | None = None,
    schemes: Sequence[str] = ("euler", "midpoint", "rk4"),
    steps: Sequence[int] | None = None,
    batch_size: int = 128,
) -> ConvergenceReport:
    """Runs a model with continuous blocks by several schemes and step counts, without retraining.

    A network that has learned a differential equation, not one discretisation of it, keeps its
    accuracy when these change; then fewer steps are cheaper for nothing. The error is

        e(N) = |y_N - y_ref| / |y_ref|,

    over all examples, with y the output of the last block; the reference is `"rk4"` with 16 times
    the largest number of steps. For smooth rates, and steps that do not cut elements of the depth
    basis, the observed order is the scheme's; with ReLU it is erratic.

    Source: Queiruga et al., 2020 (arXiv 2008.02389), who tabulate accuracies.

    Args:
        model: built Keras model with at least one `ContinuousBlock`, and one output.
        x: images `(n, ...)`, or a dataset of batches, with or without labels, which is read once.
        y: labels `(n,)`, or one-hot rows; None for no accuracy. Classes are compared if there are
            labels, or if the model is compiled with a cross-entropy or ends with a softmax; of a
            regression, whose targets have the shape of the outputs, there are none.
        schemes: names of schemes that fit the blocks.
        steps: numbers of steps of every block; default doubles from 1 to twice the most that a
            block has.
        batch_size: images at a time.

    Returns:
        A `ConvergenceReport`.

    Raises:
        ValueError: the model has no such block, or a block cannot have a scheme or number of steps.

    Example:

    >>> print(keras_pde.analysis.convergence_report(model, x_test, y_test))
    """
    blocks = depth.blocks(model)
    if steps is None:
        most = max(block.steps for block in blocks)
        steps = [2**k for k in range(most.bit_length() + 1)]
    steps = sorted({check_count(n, "steps") for n in steps})
    model = model.result if isinstance(model, RobustModel) else model
    x, y = examples(x, y)
    classes = _are_classes(model, y)
    labels = class_labels(y, model.output_shape[-1], len(x)) if classes and y is not None else None
    # A multiple of the numbers of elements too, so that the reference cuts none.
    elements = math.lcm(*(block.basis.elements(block.num_basis) for block in blocks))
    finest = math.ceil(_FINER * steps[-1] / elements) * elements
    pairs = blocks[0].scheme.parts != (0,) * blocks[0].scheme.stages
    exact = blocks[0].scheme.name if pairs else "rk4"
    reference = _outcome(model, exact, finest, x, batch_size)
    rows = []
    for scheme in schemes:
        before = None
        for n in steps:
            before = _row(model, scheme, n, x, classes, labels, batch_size, reference, before)
            rows.append(before)
    return ConvergenceReport(model.name, len(x), f"{exact!r} with {finest} steps", tuple(rows))


def _are_classes(model, y):
    """Whether the outputs are scores of classes; a regression's have no largest one to speak of."""
    if model.output_shape[-1] == 1:
        return False
    if y is not None:
        return y.ndim == 1 or y.shape[1:] == (1,) or bool(np.all(np.isin(y, (0, 1))))
    loss = heads.loss_name(getattr(model, "loss", None) or "").lower()
    return "crossentropy" in loss.replace("_", "") or graph.activation(model) == "softmax"


def _row(model, scheme, steps, x, classes, labels, batch_size, reference, before):
    state, outputs, copy, seconds = _outcome(model, scheme, steps, x, batch_size, repeats=3)
    blocks = depth.blocks(copy)
    size = float(np.linalg.norm(reference[0]))
    if size == 0:
        raise ValueError(
            f"Received {model.name!r}, whose last block puts out zeros for all examples; expected "
            "a state that errors can be compared with."
        )
    error = float(np.linalg.norm(state - reference[0])) / size
    order = None
    if before is not None and error and before.error:
        order = math.log(before.error / error) / math.log(steps / before.steps)
    found, expected = outputs.argmax(-1), reference[1].argmax(-1)
    return SolverResult(
        scheme=integrators.get(scheme).name,
        steps=steps,
        evaluations=_evaluations(copy, blocks),
        error=error,
        order=order,
        aligned=not any(bases.cuts_elements(b.basis, b.num_basis, steps) for b in blocks),
        accuracy=None if labels is None else float(np.mean(found == labels)),
        agreement=float(np.mean(found == expected)) if classes else None,
        seconds=seconds,
    )


def _outcome(model, scheme, steps, x, batch_size, repeats=0):
    """`(state of the last block, outputs, the model that was run, seconds)`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cut elements; rows say so
        copy = depth.changed(model, lambda block: {"scheme": scheme, "steps": steps})
        blocks = depth.blocks(copy)
        plain = _keras.graph_of(copy) is not None
        calls = graph.calls(copy) if plain else []
        ends = [call for call in calls if call.operation is blocks[-1]]
        if ends:
            both = keras.Model(copy.inputs, [*ends[-1].outputs, *copy.outputs])
        else:
            both = keras.Sequential([copy])
        taken = []
        for _ in range(1 + repeats):  # the first compiles
            began = time.perf_counter()
            found = both.predict(x, batch_size=batch_size, verbose=0)
            taken.append(time.perf_counter() - began)
    state, outputs = found if isinstance(found, list) else (found, found)
    return state, outputs, copy, min(taken[1:] or taken)


def _evaluations(model, blocks):
    """Of the rates in one pass; a block may be called several times."""

    def measure(operation, args, output):
        of_block = isinstance(operation, ContinuousBlock)
        return operation.steps * operation.scheme.stages if of_block else 0

    if _keras.graph_of(model) is None or len(model.inputs) > 1:
        return sum(measure(block, None, None) for block in blocks)
    return cost.of(model, model.inputs[0], measure=measure)


def _cells(row):
    percent = [
        "-" if share is None else f"{100 * share:.1f} %" for share in (row.accuracy, row.agreement)
    ]
    return (
        row.scheme,
        f"{row.steps}{'' if row.aligned else '*'}",
        str(row.evaluations),
        f"{row.error:.2e}",
        "-" if row.order is None else f"{row.order:.2f}",
        *percent,
        f"{row.seconds:.3f}",
    )
