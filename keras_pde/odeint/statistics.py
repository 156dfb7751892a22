from typing import Any, NamedTuple

REACHED, MAX_STEPS, UNDERFLOW, EVENT = range(4)


class Statistics(NamedTuple):
    """What a solution cost, per example: int32 tensors `(batch,)`.

    Attributes:
        evaluations: of func.
        accepted: steps.
        rejected: steps that were tried again with a shorter one.
        status: 0 if the last time was reached, 1 after `max_steps` steps, 2 if the steps became too
            short for the precision of the time, 3 if a terminal event ended it.
    """

    evaluations: Any
    accepted: Any
    rejected: Any
    status: Any
