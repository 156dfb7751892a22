import keras
import numpy as np
from keras import ops

from keras_pde import _keras, graph
from keras_pde.calls import in_place_of


class Perturbed:
    """What of a model is perturbed: its input, one of several, or the output of a layer in it.

    Text has no gradient; the output of its embedding has. All inputs, of which one may be what is
    perturbed, are the context in which the model is called again with something else in its place.

    Args:
        model: Keras model.
        at: name of the layer whose output is perturbed, a tensor of floats, such as an embedding;
            `None` for an input.
        perturb: which input, of several: its key, if inputs are a dict, else the name of the
            model's input or its number.
        output: which output, of several, likewise; `None` if there is one.

    Raises:
        ValueError: no layer, or several, of that name; both `at` and `perturb`.
    """

    def __init__(self, model, at=None, perturb=None, output=None):
        self.model, self.perturb, self.output = model, perturb, output
        self.at = getattr(at, "name", at)  # a layer stands for its name, and is meant itself
        self._layer = None
        if at is None:
            return
        if perturb is not None:
            raise ValueError(
                f"Received at={self.at!r} and perturb={perturb!r}; expected one of them: the "
                "output of a layer is perturbed, or an input."
            )
        layers = [layer for layer in _keras.layers_of(model) if layer is not model]
        found = [layer for layer in layers if self.at in (layer.name, layer.path)]
        if any(layer is at for layer in layers):
            found = [at]
        if len(found) != 1:
            names = ", ".join(dict.fromkeys(repr(layer.name) for layer in layers))
            fix = ", or the layer itself" if found else ""
            raise ValueError(
                f"Received at={self.at!r}, the name of {len(found)} layers; expected that of one "
                f"of {names}{fix}."
            )
        (self._layer,) = found

    @property
    def which(self) -> dict:
        """The arguments, without the model."""
        return {"at": self.at, "perturb": self.perturb, "output": self.output}

    @property
    def is_plain(self) -> bool:
        """Whether it is the model's one input."""
        return self.at is None and self.perturb is None

    def of(self, model) -> "Perturbed":
        """The same of a copy of the model."""
        return self if model is self.model else Perturbed(model, **self.which)

    # What is perturbed

    def chosen(self, inputs):
        """The input that is perturbed; what may be none of several is refused.

        Args:
            inputs: as the model takes them: a tensor or array, or a dict, list or tuple of them.
        """
        if self.perturb is not None:
            return self._entry(inputs, self.perturb, "perturb")
        if isinstance(inputs, dict | list | tuple):
            raise ValueError(
                f"Received inputs as a {type(inputs).__name__} of {_shown(inputs)}; expected one "
                "array, or perturb=... to say which of them is perturbed, or at=... for the output "
                "of a layer."
            )
        return inputs

    def start(self, inputs, **mode):
        """What is perturbed, at these inputs."""
        if self._layer is None:
            return self.chosen(inputs)
        found = []

        def noted(call, *args, **kwargs):
            found.append(call(*args, **kwargs))
            return found[-1]

        with in_place_of(self._layer, noted):
            self.model(inputs, **mode)
        if len(found) != 1 or not is_float_tensor(found[0]):
            raise ValueError(
                f"Received at={self.at!r}, a layer that is called {len(found)} times"
                + (f" and returns a {_kind(found[0])}" if found else "")
                + "; expected one that is called once, and returns a tensor of floats."
            )
        return found[0]

    def call(self, z, inputs, around=None, **mode):
        """The outputs with `z` in the place of what is perturbed.

        Args:
            z: tensor.
            inputs: all inputs; not used where there is but one.
            around: if given, `z - around` is added to the output of the layer, through which
                gradients then flow to what comes before.
            **mode: `training`.
        """
        if self._layer is None:
            outputs = self.model(z if self.is_plain else self._with(inputs, z), **mode)
        else:

            def instead(call, *args, **kwargs):
                if around is None:
                    return z
                # Both may be one tensor, by which it is differentiated.
                return call(*args, **kwargs) + (z - ops.stop_gradient(around))

            with in_place_of(self._layer, instead):
                outputs = self.model(inputs, **mode)
        if self.output is not None:
            outputs = self._entry(outputs, self.output, "output")
        return outputs

    def activation(self) -> str | None:
        """Name of the activation that the output ends with; `None` if it can't be told."""
        if self.output is None:
            return graph.activation(self.model)
        if _keras.graph_of(self.model) is None:
            return None
        chosen = self._entry(self.model.output, self.output, "output")
        return graph.activation(keras.Model(self.model.inputs, chosen))

    def _entry(self, entries, key, what):
        return entries[self._place(entries, key, what)]

    def _place(self, entries, key, what):
        """The key or number of one of several inputs or outputs."""
        if isinstance(entries, dict) and key in entries:
            return key
        if isinstance(entries, list | tuple):
            named = self._names(what)
            place = named.index(key) if key in named else key
            place = int(place) if isinstance(place, np.integer) else place
            if isinstance(place, int) and 0 <= place < len(entries):
                return place
            entries = dict.fromkeys(named or range(len(entries)))
        raise ValueError(
            f"Received {what}={key!r} for {_shown(entries)}; expected the name or number of one of "
            "them."
        )

    def _names(self, what):
        """Of the inputs or outputs in order, as far as the model says them."""
        if what == "output":
            return list(getattr(self.model, "output_names", None) or [])
        return [tensor.name for tensor in getattr(self.model, "inputs", None) or []]

    def _with(self, inputs, z):
        place = self._place(inputs, self.perturb, "perturb")
        if isinstance(inputs, dict):
            return {**inputs, place: z}
        return type(inputs)(z if n == place else entry for n, entry in enumerate(inputs))


def _kind(value):
    dtype = getattr(value, "dtype", None)
    return type(value).__name__ + (f" of type {dtype}" if dtype is not None else "")


def _shown(entries):
    if isinstance(entries, dict):
        return ", ".join(map(repr, entries))
    if isinstance(entries, list | tuple):
        return f"{len(entries)} arrays"
    return f"one of shape {tuple(entries.shape)}"


def is_float_tensor(value):
    """Whether it is a tensor of floats."""
    return hasattr(value, "dtype") and keras.backend.is_float_dtype(
        keras.backend.standardize_dtype(value.dtype)
    )
