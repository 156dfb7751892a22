"""Which cases of a bank run each time, and which only with `pytest -m slow`."""

import pytest


def some(cases, fast):
    """Parameters of which those named in `fast` run each time.

    Args:
        cases: names, or tuples of arguments.
        fast: some of them: at least one of each kind that can fail by itself.
    """
    cases = list(cases)
    assert set(fast) <= set(cases), "a case that is not there"
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=() if case in fast else pytest.mark.slow,
        )
        for case in cases
    ]
