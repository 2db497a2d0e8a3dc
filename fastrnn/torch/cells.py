"""LSTMCell, GRUCell and RNNCell in place of torch.nn's: the same modules, but the kernels do the work."""

from typing import Any

import torch
from torch import Tensor

from fastrnn.kernels.cells import CELLS

from . import autograd, operators
from .arguments import fit, present_weights
from .dynamo import keep_outside_graph
from .fx import in_fx_graph
from .layer import layers_as_before, layers_of
from .modes import (
    autocast_applies,
    autocast_dtypes,
    dynamo_at_work,
    graph_is_recorded,
    kernels_may_run,
    transforms_in_graph,
)
from .original import as_torch_nn

_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class _Cell(torch.nn.RNNCellBase):
    """What the three modules share. What the kernels cannot do, and what is wrong, is left to torch.nn's forward."""

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As torch.nn's."""
        if torch.compiler.is_compiling():
            followed = torch.compiler.is_exporting() or transforms_in_graph()
            result = None if followed else self._run(input, hx, compiling=True)
            return super().forward(input, hx) if result is None else result
        return self._eager(input, hx) if dynamo_at_work() is None else self._forward_outside_graph(input, hx)

    def _eager(self, input: Any, hx: Any) -> Any:
        if kernels_may_run():
            result = self._run(input, hx)
            if result is not None:
                return result
        node = in_fx_graph(self, input, hx)
        return super().forward(input, hx) if node is None else node

    _forward_outside_graph = _eager  # the same, and Dynamo is told to leave it alone, and all that it calls

    def __prepare_scriptable__(self) -> torch.nn.Module:
        """What torch.jit.script compiles in place of this."""
        return as_torch_nn(self)

    def _kernels(self) -> str:
        """The cell's name there."""
        raise NotImplementedError

    def _run(self, x: Any, hx: Any, compiling: bool = False) -> Any:
        """The next state; None for what the kernels cannot do."""
        cell = self._kernels()
        number = 2 if cell == "lstm" else 1
        states = hx if hx is None or number == 2 else (hx,)
        bound: Any
        if cell not in CELLS:
            return None
        kind = (cell, 1, self.input_size, self.hidden_size, 0)
        before = None if compiling else layers_as_before(self, kind, 1)
        present, bound = before or (present_weights(self, _WEIGHTS, kind, 1, compiling), None)
        if present is None or not isinstance(x, Tensor):
            return None
        (weights,) = present
        autocast = autocast_applies(weights[0].dtype)
        if x.is_nested or x.dim() not in (1, 2) or x.shape[-1] != self.input_size:
            return None
        shape = (*x.shape[:-1], self.hidden_size)
        if not fit(x, states, [shape] * number, None if autocast else weights[0].dtype):
            return None
        states, dtypes = () if states is None else tuple(states), None
        if autocast:
            dtypes = autocast_dtypes(cell, False, x, states, one_dnn=False)
            if dtypes is None:
                return None
            x, states = x.float(), tuple([s.float() for s in states])
        run: Any = autograd.run
        if compiling:
            run, bound = operators.run, [(cell, 1)]
        elif bound is None:
            bound = layers_of(self, _WEIGHTS, kind, [weights])
            if bound is None:
                return None
        recorded = not compiling and graph_is_recorded()
        if recorded and any([w.is_inference() for w in weights]) and autograd.wants_gradient(x, states, weights):
            return None  # a node of ours would keep them, which PyTorch forbids
        batched = x.dim() == 2
        if not batched:
            x, states = x.unsqueeze(0), tuple([s.unsqueeze(0) for s in states])
        final = run(bound[0], x, states, weights)
        if not batched:
            final = tuple([s.squeeze(0) for s in final])
        if dtypes is not None:
            final = tuple([s.to(dtype) for s, dtype in zip(final, dtypes[1:], strict=True)])
        return final if number == 2 else final[0]


class LSTMCell(_Cell, torch.nn.LSTMCell):
    """torch.nn.LSTMCell on the kernels of fastrnn. Arguments, attributes and results are the same."""

    def _kernels(self) -> str:
        return "lstm"


class GRUCell(_Cell, torch.nn.GRUCell):
    """torch.nn.GRUCell on the kernels of fastrnn. Arguments, attributes and results are the same."""

    def _kernels(self) -> str:
        return "gru"


class RNNCell(_Cell, torch.nn.RNNCell):
    """torch.nn.RNNCell on the kernels of fastrnn. Arguments, attributes and results are the same."""

    def _kernels(self) -> str:
        return f"rnn_{self.nonlinearity}"


keep_outside_graph(_Cell, "_forward_outside_graph")
