"""keras_pde: stable, flat-minimum and robust networks for Keras 3, from differential equations.

A deep network is a discretised differential equation, and training it is one, too. From that come
parts that fit into any Keras script, and instruments that say what they are worth:

    layers, models      blocks that are continuous in depth, antisymmetric, Hamiltonian, parabolic
    optimizers          Entropy-SGD and its relatives, SALR, SAM, adaptive batches
    objectives          adversarial terms and penalties on input gradients, for `RobustModel`
    callbacks           validation under attack, weights to evaluate, depth that grows
    attacks, evaluate   FGSM, PGD, smallest distances; a `Report` with intervals and alarms
    analysis            stability of layers, convergence in depth, Hamilton-Jacobi equations
    odeint              ordinary differential equations as functions of tensors
    data, recipes       data sets by name; a TOML file becomes a trained, measured, saved model
    load_model          pretrained robust models (`list_models`), with digests that are checked
    tuner, offline, hub Keras Tuner over recipes; trainings without a network; publishing

Where to begin: `keras-pde quickstart` on the command line, or

>>> import keras, keras_pde as kp
>>> images = kp.data.load("fashion_mnist_sample")
>>> model = kp.models.small_cnn()
>>> robust = kp.RobustModel(model, kp.objectives.Adversarial("linf", epsilon=0.1))
>>> robust.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
>>> history = robust.fit(images.x_train[:256], images.y_train[:256], verbose=0)
>>> report = kp.evaluate(model, images.x_test[:20], images.y_test[:20], epsilons=[0.1])

Images are float32 in [0, 1], channels last; models return logits. Where training runs: TensorFlow
and JAX; attacks, evaluation and pretrained models also on PyTorch.
"""

import importlib
import os
import sys

__version__ = "0.1.0"

__all__ = [
    "Report",
    "RobustModel",
    "Threat",
    "analysis",
    "attacks",
    "callbacks",
    "data",
    "evaluate",
    "hub",
    "layers",
    "list_models",
    "load_model",
    "models",
    "objectives",
    "odeint",
    "offline",
    "optimizers",
    "recipes",
    "save_model",
    "tuner",
]

_WHEN_ASKED_FOR = ("offline", "tuner")  # few need them, and they import much


def _is_command() -> bool:
    """Whether this is the process of `keras-pde`, which parses before it imports Keras."""
    program = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
    as_module = ("-m", "keras_pde.cli") in zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
    return program in ("keras-pde", "keras-pde.exe") or as_module


if not _is_command():
    from keras_pde._names import (
        Report,
        RobustModel,
        Threat,
        analysis,
        attacks,
        callbacks,
        data,
        evaluate,
        hub,
        layers,
        list_models,
        load_model,
        models,
        objectives,
        odeint,
        optimizers,
        recipes,
        save_model,
    )


def __getattr__(name):
    if name in _WHEN_ASKED_FOR:
        return importlib.import_module(f"{__name__}.{name}")
    if name in __all__:  # of a command that has parsed
        _import_names()
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _import_names():
    """Imports what a command left out, as if it had been at the start."""
    names = importlib.import_module(f"{__name__}._names")
    globals().update({n: getattr(names, n) for n in __all__ if n not in _WHEN_ASKED_FOR})


def __dir__():
    return sorted([*__all__, "__all__", "__doc__", "__version__"])
