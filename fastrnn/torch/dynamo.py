"""Let torch.compile trace the modules of this package.

Dynamo leaves its graph at each instance of torch.nn.LSTM, GRU and RNN, unless `torch._dynamo.config.allow_rnn` is set;
then it would also write PyTorch's own modules into the graph, step by step. So that is set only while it looks at a
module of ours.

Importing Dynamo takes as long as importing PyTorch, and most programs never need it: what it has to know is told to it
when somebody else imports it.
"""

import contextlib
import functools
import importlib.util
import sys
import threading
import warnings
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

import torch

from . import autograd, modes

_NAME = "torch._dynamo"


class _Watcher(MetaPathFinder):
    """Calls a function when Dynamo has been imported."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action: Callable[[], None] | None = action
        self._own_search = threading.local()

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != _NAME or getattr(self._own_search, "on", False):
            return None
        self._own_search.on = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._own_search.on = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self.imported)
        return spec

    def imported(self) -> None:
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(self)
        action, self._action = self._action, None
        if action is not None:
            action()


class _Loader(Loader):
    """Another loader, and what is to be called when that has loaded its module."""

    def __init__(self, loader: Any, then: Callable[[], None]) -> None:
        self._loader = loader
        self._then = then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._then()


def let_dynamo_trace(module_class: type[torch.nn.Module]) -> None:
    """Do not leave the graph at instances of that class."""
    _when_imported(functools.partial(_let_trace, module_class))


def keep_outside_graph(module_class: type[torch.nn.Module], method: str) -> None:
    """Leave the graph at that method, and all that it calls alone."""
    _when_imported(functools.partial(_keep_outside, module_class, method))


def _when_imported(action: Callable[[], None]) -> None:
    if _NAME in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Watcher(action))


def _keep_outside(module_class: type[torch.nn.Module], method: str) -> None:
    setattr(module_class, method, torch.compiler.disable(getattr(module_class, method)))


def _let_trace(module_class: type[torch.nn.Module]) -> None:
    try:
        from torch._dynamo.variables.builder import VariableBuilder

        wrap_module = VariableBuilder.wrap_module
    except (ImportError, AttributeError) as error:  # it is PyTorch's own affair how these are called
        warnings.warn(f"fastrnn.torch: torch.compile will leave its graphs at our modules: {error}", stacklevel=2)
        return

    @functools.wraps(wrap_module)
    def wrap(self: Any, value: Any) -> Any:
        if not isinstance(value, module_class):
            return wrap_module(self, value)
        with torch._dynamo.config.patch(allow_rnn=True):
            return wrap_module(self, value)

    VariableBuilder.wrap_module = wrap  # type: ignore[method-assign]
    autograd.go_back_outside_graph = torch.compiler.disable(autograd.go_back)  # compiled autograd traces what it can
    for function in (modes.transforms_in_graph, modes.one_dnn_runs):
        torch.compiler.assume_constant_result(function)  # marks it
