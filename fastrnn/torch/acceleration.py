"""Put the modules of this package in the place of torch.nn's within a model."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.utils.parametrize import is_parametrized

from fastrnn.validation import class_name, full_name

from .cells import GRUCell, LSTMCell, RNNCell
from .layer import DTYPES, forget
from .recurrent import GRU, LSTM, RNN

_OURS: dict[type, type] = {
    torch.nn.LSTM: LSTM,
    torch.nn.GRU: GRU,
    torch.nn.RNN: RNN,
    torch.nn.LSTMCell: LSTMCell,
    torch.nn.GRUCell: GRUCell,
    torch.nn.RNNCell: RNNCell,
}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}
_NAMES = tuple(theirs.__name__ for theirs in _OURS)


@dataclass
class Report:
    """What `accelerate` or `restore` did. Printed, it is a line for each recurrent module.

    swapped  {name in the model: the module now}; the name of the model itself is ""
    left     {name in the model: why it was left as it was}
    """

    swapped: dict[str, torch.nn.Module] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        modules = [(name, f"{type(m).__name__}({m.extra_repr()})") for name, m in self.swapped.items()]
        lines = [f"swapped {_shown(name)}: {module}" for name, module in modules]
        lines += [f"left    {_shown(name)}: {reason}" for name, reason in self.left.items()]
        return "\n".join(lines) or "no recurrent module found"


def accelerate(model: torch.nn.Module) -> Report:
    """Make every torch.nn.LSTM, GRU, RNN, LSTMCell, GRUCell and RNNCell in `model`, or that is it, one of ours.

    The modules stay the same objects and only change their class: parameters, buffers, hooks, parametrisations, and
    whatever refers to them, an optimiser for example, stay as they are. What cannot be swapped is left as it was and
    named in the report: a subclass, whose forward may do something else, or weights that the kernels are not for.
    """
    return _swap(model, _OURS, _why_not_accelerate)


def restore(model: torch.nn.Module) -> Report:
    """Undo `accelerate`: make every module of this package in `model` one of torch.nn's. Subclasses of ours stay."""
    return _swap(model, _THEIRS, lambda module: None)


def _swap(model: torch.nn.Module, table: dict[type, type], why_not: Any) -> Report:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {full_name(model)}")
    report = Report()
    for name, module in model.named_modules():
        given = type(module)
        # a parametrised module has a class of its own, made from its former one
        base = given.__bases__[0] if is_parametrized(module) else given
        if base in table:
            reason = why_not(module)
            if reason is None:
                module.__class__ = table[base] if base is given else _derived(given, table[base])
                forget(module)
                report.swapped[name] = module
        elif base in table.values():
            reason = f"is {class_name(base)} already"
        else:
            reason = _why_unknown(module, base)
        if reason is not None:
            report.left[name] = reason
    return report


def _derived(parametrised: type, base: type) -> type:
    """The class of a parametrised module, on another base."""
    own = {name: value for name, value in vars(parametrised).items() if name not in ("__dict__", "__weakref__")}
    return type(parametrised.__name__, (base,), own)


def _why_not_accelerate(module: torch.nn.Module) -> str | None:
    if "forward" in vars(module):
        return "its forward was replaced"
    weights = list(module.parameters())
    if not weights:
        return "it has no parameters"
    for weight in weights:
        if weight.dtype not in DTYPES:
            return f"its weights are {weight.dtype}, and the kernels are for torch.float32 and torch.float64"
        if weight.device.type != "cpu":
            return f"its weights are on {weight.device}, and the kernels are for the CPU"
    dtypes = {weight.dtype for weight in weights}
    return None if len(dtypes) == 1 else f"its weights have different dtypes: {', '.join(sorted(map(str, dtypes)))}"


def _why_unknown(module: torch.nn.Module, base: type) -> str | None:
    """For what seems to be a recurrent module, and is none we know."""
    if isinstance(module, torch.jit.ScriptModule):
        recurrent = module.original_name in _NAMES
        return f"is TorchScript, compiled from {module.original_name}" if recurrent else None
    ours = next((c for c in base.__mro__ if c in _THEIRS), None)
    if ours is not None:
        return f"is {class_name(base)}, a subclass of {class_name(ours)}, and stays one"
    if isinstance(module, torch.nn.RNNBase | torch.nn.RNNCellBase):
        return f"is {class_name(base)}, a subclass that may compute something else"
    return f"is {class_name(base)}, none of torch.nn's" if base.__name__ in _NAMES else None


def _shown(name: str) -> str:
    return name or "the model itself"
