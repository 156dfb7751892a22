import inspect

import keras

# What is of the layer and not of its cell; `dtype` and `trainable` are of both.
_OWN = {"name", "activity_regularizer", *inspect.signature(keras.layers.RNN).parameters}
_OWN -= {"cell", "kwargs"}


class DifferentialRNN(keras.layers.RNN):
    """A recurrent layer around one kind of cell, whose arguments it takes: the base class.

    class AntisymmetricRNN(DifferentialRNN, cell=AntisymmetricRNNCell): ...
    """

    def __init_subclass__(cls, cell, **kwargs):
        super().__init_subclass__(**kwargs)
        cls._cell_class, cls.__signature__ = cell, inspect.signature(cell)

    def __init__(self, *args, **kwargs):
        own = {name: kwargs.pop(name) for name in _OWN & set(kwargs)}
        both = {name: kwargs[name] for name in ("dtype", "trainable") if name in kwargs}
        super().__init__(self._cell_class(*args, **kwargs), **own, **both)
        self.input_spec = keras.InputSpec(ndim=3)
        # Which `keras.layers.RNN` implements, but does not say in 3.16.
        self.supports_masking = True

    def inner_loop(self, *args, **kwargs):
        with self.cell.held():
            return super().inner_loop(*args, **kwargs)

    def get_config(self):
        config = super().get_config()
        return {**config.pop("cell")["config"], **config}

    @classmethod
    def from_config(cls, config):
        return cls(**config)
