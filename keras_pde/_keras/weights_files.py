"""Of what Keras writes and reads."""

import io

from keras.src.saving import saving_lib


def weights_file(model) -> io.BytesIO:
    """What `model.save_weights` writes, in memory: HDF5 ends the process where a disk is full."""
    file = io.BytesIO()
    store = saving_lib.H5IOStore(file, mode="w")
    saving_lib._save_state(model, store, None, "", set())
    store.close()
    return file


def read_weights(model, file):
    """`model.load_weights` of what `weights_file` returns."""
    store = saving_lib.H5IOStore(file, mode="r")
    saving_lib._load_state(model, store, None, "", visited_saveables=set())
    store.close()
