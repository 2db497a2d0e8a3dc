"""LSTM, GRU and RNN in place of torch.nn's: the same modules, but the kernels do the work."""

from collections.abc import Sequence as Tensors
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fastrnn.lengths import PackedRows
from fastrnn.parameters import state_widths

from . import autograd, operators
from .arguments import fit, packed_rows, present_weights
from .dynamo import keep_outside_graph, let_dynamo_trace
from .fx import in_fx_graph
from .layer import layers_as_before, layers_of
from .modes import (
    autocast_applies,
    autocast_dtypes,
    dynamo_at_work,
    kernels_may_run,
    one_dnn_runs,
    transforms_in_graph,
)
from .original import as_torch_nn

_CELLS = {"LSTM": "lstm", "GRU": "gru", "RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu"}


class _Recurrent(torch.nn.RNNBase):
    """What the three modules share. What the kernels cannot do, and what is wrong, is left to torch.nn's forward."""

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As torch.nn's."""
        if torch.compiler.is_compiling():
            if torch.compiler.is_exporting() or transforms_in_graph():
                return super().forward(input, hx)
            result = None if isinstance(input, PackedSequence) else self._run(input, hx, None, compiling=True)
            return self._forward_outside_graph(input, hx) if result is None else result
        return self._eager(input, hx) if dynamo_at_work() is None else self._forward_outside_graph(input, hx)

    def _eager(self, input: Any, hx: Any) -> Any:
        if not kernels_may_run():
            return super().forward(input, hx)
        if isinstance(input, PackedSequence):
            rows = packed_rows(input)
            if rows is not None:
                states = None if hx is None else self.permute_hidden(hx, input.sorted_indices)
                result = self._run(input.data, states, rows)
                if result is not None:
                    y, final = result
                    return PackedSequence(y, *input[1:]), self.permute_hidden(final, input.unsorted_indices)
        else:
            result = self._run(input, hx, None)
            if result is not None:
                return result
        node = in_fx_graph(self, input, hx)
        return super().forward(input, hx) if node is None else node

    _forward_outside_graph = _eager  # the same, and Dynamo is told to leave it alone, and all that it calls

    def __prepare_scriptable__(self) -> torch.nn.Module:
        """What torch.jit.script compiles in place of this."""
        return as_torch_nn(self)

    def _run(self, x: Any, hx: Any, rows: PackedRows | None, compiling: bool = False) -> Any:
        """y and the final state in the layout of x and hx; None for what the kernels cannot do.

        With `rows`, x is packed, (N, I), and hx in their order.
        """
        cell = _CELLS[self.mode]
        states = hx if hx is None or cell == "lstm" else (hx,)
        bound: Any
        directions = 2 if self.bidirectional else 1
        kind = (cell, directions, self.input_size, self.hidden_size, self.proj_size)
        before = None if compiling else layers_as_before(self, kind, self.num_layers)
        names = self._flat_weights_names
        weights, bound = before or (present_weights(self, names, kind, self.num_layers, compiling), None)
        if weights is None or not isinstance(x, Tensor):
            return None
        dtype = weights[0][0].dtype
        autocast = autocast_applies(dtype)
        if not self._fit(x, states, rows, None if autocast else dtype):
            return None
        states, dtypes = () if states is None else tuple(states), None
        if autocast:
            equal = rows is None or rows.total == rows.steps * rows.batch  # lengths
            one_dnn = equal and not self.proj_size and one_dnn_runs(x.dtype)
            dtypes = autocast_dtypes(cell, self.proj_size > 0, x, states, one_dnn=one_dnn)
            if dtypes is None:
                return None
            x, states = x.float(), tuple([s.float() for s in states])
        run: Any = autograd.run
        if compiling:
            run, bound = operators.run, [(cell, directions)] * self.num_layers
        elif bound is None:
            bound = layers_of(self, names, kind, weights)
            if bound is None:
                return None
        batched = rows is not None or x.dim() == 3
        turned = self.batch_first and batched and rows is None
        if not batched:
            x, states = x.unsqueeze(1), tuple([s.unsqueeze(1) for s in states])
        elif turned:
            if not compiling and torch.is_grad_enabled() and x.is_inference():
                x = x.clone()  # no backward pass may keep inference_mode's memory; torch.nn keeps a copy of its own
            x = x.transpose(0, 1)
        if self.num_layers == 1:
            y, *final = run(bound[0], x, states, weights[0], rows, turned)
        else:
            y, final = self._run_layers(run, bound, weights, x, states, rows, turned)
        if compiling and y.requires_grad:
            y = operators.copy(y)
        if not batched:
            y, final = y.squeeze(1), [s.squeeze(1) for s in final]
        if dtypes is not None:
            y, *final = [tensor.to(dtype) for tensor, dtype in zip((y, *final), dtypes, strict=True)]
        return y, (tuple(final) if cell == "lstm" else final[0])

    def _run_layers(
        self,
        run: Any,  # that of `autograd` or `operators`
        bound: list[Any],  # for each layer what `run` takes first
        weights: list[Tensors[Tensor]],
        y: Tensor,  # of the layer below: first x, time-major
        states: tuple[Tensor, ...],
        rows: PackedRows | None,
        turned: bool,
    ) -> tuple[Tensor, list[Tensor]]:
        number = len(bound)
        states_of: list[Any] = [()] * number
        if states:
            states_of = list(zip(*[s.split(s.shape[0] // number) for s in states], strict=True))
        finals = []
        for k in range(number):
            if k and self.dropout and self.training:
                y = torch.nn.functional.dropout(y, self.dropout)
            y, *final = run(bound[k], y, states_of[k], weights[k], rows, turned and k == number - 1)
            finals.append(final)
        return y, [torch.cat(s) for s in zip(*finals, strict=True)]

    def _fit(self, x: Tensor, states: Any, rows: PackedRows | None, dtype: torch.dtype | None) -> bool:
        """Whether the arguments are such as torch.nn takes, and the kernels too."""
        if x.is_nested:  # it has no shape
            return False
        shape = x.shape
        if len(shape) not in ((2, 3) if rows is None else (2,)) or shape[-1] != self.input_size:
            return False
        if states is None:
            return fit(x, None, (), dtype)
        lead: tuple[int, ...] = (self.num_layers * (2 if self.bidirectional else 1),)
        if rows is not None:
            lead += (rows.batch,)
        elif len(shape) == 3:
            lead += (shape[0 if self.batch_first else 1],)
        widths = state_widths(_CELLS[self.mode], self.hidden_size, self.proj_size)
        return fit(x, states, [(*lead, width) for width in widths], dtype)


class LSTM(_Recurrent, torch.nn.LSTM):
    """torch.nn.LSTM on the kernels of fastrnn. Arguments, attributes and results are the same."""


class GRU(_Recurrent, torch.nn.GRU):
    """torch.nn.GRU on the kernels of fastrnn. Arguments, attributes and results are the same."""


class RNN(_Recurrent, torch.nn.RNN):
    """torch.nn.RNN on the kernels of fastrnn. Arguments, attributes and results are the same."""


let_dynamo_trace(_Recurrent)
keep_outside_graph(_Recurrent, "_forward_outside_graph")
