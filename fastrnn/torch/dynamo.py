"""Let torch.compile trace the modules of this package.

Dynamo leaves its graph at each instance of torch.nn.LSTM, GRU and RNN, unless `torch._dynamo.config.allow_rnn` is set;
then it would also write PyTorch's own modules into the graph, step by step. So that is set only while it looks at a
module of ours.
"""

import functools
from typing import Any

import torch
import torch._dynamo
from torch._dynamo.variables.builder import VariableBuilder


def let_dynamo_trace(module_class: type[torch.nn.Module]) -> None:
    """Do not leave the graph at instances of that class."""
    wrap_module = VariableBuilder.wrap_module

    @functools.wraps(wrap_module)
    def wrap(self: Any, value: Any) -> Any:
        if not isinstance(value, module_class):
            return wrap_module(self, value)
        with torch._dynamo.config.patch(allow_rnn=True):
            return wrap_module(self, value)

    VariableBuilder.wrap_module = wrap  # type: ignore[method-assign]
