"""Let torch.compile trace the modules of this package.

Dynamo leaves its graph at each instance of torch.nn.LSTM, GRU and RNN, unless `torch._dynamo.config.allow_rnn` is set;
then it would also write PyTorch's own modules into the graph, step by step. So that is set only while it looks at a
module of ours.

Importing Dynamo takes as long as importing PyTorch, and most programs never need it: what it has to know is told to it
when somebody else imports it.
"""

import functools
import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

import torch

from . import modes

_NAME = "torch._dynamo"


class _Watcher(MetaPathFinder):
    """Calls a function once, after Dynamo has been imported."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != _NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_act(module: Any) -> None:
                execute(module)
                self._action()

            spec.loader.exec_module = execute_and_act  # type: ignore[method-assign]
        return spec


def let_dynamo_trace(module_class: type[torch.nn.Module], outside_graph: str) -> None:
    """Do not leave the graph at instances of that class, but for its method `outside_graph`."""
    action = functools.partial(_tell_dynamo, module_class, outside_graph)
    if _NAME in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Watcher(action))


def _tell_dynamo(module_class: type[torch.nn.Module], outside_graph: str) -> None:
    from torch._dynamo.variables.builder import VariableBuilder

    wrap_module = VariableBuilder.wrap_module

    @functools.wraps(wrap_module)
    def wrap(self: Any, value: Any) -> Any:
        if not isinstance(value, module_class):
            return wrap_module(self, value)
        with torch._dynamo.config.patch(allow_rnn=True):
            return wrap_module(self, value)

    VariableBuilder.wrap_module = wrap  # type: ignore[method-assign]
    setattr(module_class, outside_graph, torch.compiler.disable(getattr(module_class, outside_graph)))
    for function in (modes.transforms_in_graph, modes.one_dnn_runs):
        torch.compiler.assume_constant_result(function)  # marks it
