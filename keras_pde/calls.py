"""Something else in the place of a layer's call, wherever in a model it is called."""

import contextlib
import functools
import threading

_LOCK = threading.Lock()
_THREAD = threading.local()


@contextlib.contextmanager
def in_place_of(layer, function):
    """Within it, in this thread, calls of the layer are `function(call, *args, **kwargs)`.

    `call` is the layer's own. What surrounds it (casts, masks) stays. Replicas of a step are
    threads, each of which may be within at another time.
    """
    functions = _functions()
    with _LOCK:
        dispatch = vars(layer).get("call")
        if not isinstance(dispatch, _Dispatch):
            dispatch = layer.call = _Dispatch(layer)
        dispatch.users += 1
    before = functions.get(id(layer))
    functions[id(layer)] = function
    try:
        yield
    finally:
        functions[id(layer)] = before
        with _LOCK:
            dispatch.users -= 1
            if not dispatch.users:
                dispatch.put_back()


def _functions():
    """Number of a layer -> function, of this thread."""
    return vars(_THREAD).setdefault("functions", {})


class _Dispatch:
    """The `call` of a layer while some thread has another in its place."""

    def __init__(self, layer):
        self.layer, self.call, self.users = layer, layer.call, 0
        self.own = vars(layer).get("call")
        functools.update_wrapper(self, self.call)

    def __call__(self, *args, **kwargs):
        function = _functions().get(id(self.layer))
        if function is None:
            return self.call(*args, **kwargs)
        return function(self.call, *args, **kwargs)

    def put_back(self):
        if self.own is None:
            del self.layer.call
        else:
            self.layer.call = self.own
