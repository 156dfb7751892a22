"""The one room for what is private in Keras: each name with what we take it to do.

`tests/unit/test_keras_names.py` has a canary for each, which says what a new Keras has changed; and
sees to it that no file outside uses such a name.
"""

from keras_pde._keras.layers import (
    TooLarge,
    calls_in,
    graph_of,
    graph_that_runs,
    layers_of,
    own_objects,
    part_named,
    producer,
    replacing_variables,
    run_graph,
    set_weights,
    stateless_call,
    takes_training,
    without_values,
)
from keras_pde._keras.optimizers import (
    SLOT_KINDS,
    Optimizer,
    batches_of,
    decays,
    holds_values,
    leave_undecayed,
    moving_averages,
    own_variables,
    place,
    slots_of,
    strategy_of,
    summed_over_replicas,
    trained_by,
)
from keras_pde._keras.trainers import (
    as_added,
    create_state,
    put_back,
    regularisers,
    replace_optimizer,
    track_loss,
)
from keras_pde._keras.weights_files import (
    read_weights,
    weights_file,
)

__all__ = [
    "SLOT_KINDS",
    "Optimizer",
    "TooLarge",
    "as_added",
    "batches_of",
    "calls_in",
    "create_state",
    "decays",
    "graph_of",
    "graph_that_runs",
    "holds_values",
    "layers_of",
    "leave_undecayed",
    "moving_averages",
    "own_objects",
    "own_variables",
    "part_named",
    "place",
    "producer",
    "put_back",
    "read_weights",
    "regularisers",
    "replace_optimizer",
    "replacing_variables",
    "run_graph",
    "set_weights",
    "slots_of",
    "stateless_call",
    "strategy_of",
    "summed_over_replicas",
    "takes_training",
    "track_loss",
    "trained_by",
    "weights_file",
    "without_values",
]
