"""torch.fx: the modules of this package stay whole in its graphs, as torch.nn's own do."""

import functools
from typing import Any

import torch
import torch.fx


def let_fx_keep_whole(package: str) -> None:
    """Modules whose classes are of that package, subclasses elsewhere not among them."""
    is_leaf = torch.fx.Tracer.is_leaf_module

    @functools.wraps(is_leaf)
    def is_ours_or_leaf(self: torch.fx.Tracer, module: torch.nn.Module, path: str) -> bool:
        return type(module).__module__.startswith(f"{package}.") or is_leaf(self, module, path)

    torch.fx.Tracer.is_leaf_module = is_ours_or_leaf  # type: ignore[method-assign, assignment]


def in_fx_graph(module: torch.nn.Module, *arguments: Any) -> torch.fx.Proxy | None:
    """For a tracer with a rule of its own of what stays whole, a node that is the whole module; else None."""
    proxy = next((a for a in arguments if isinstance(a, torch.fx.Proxy)), None)
    if proxy is None:
        return None
    tracer: Any = proxy.tracer
    path = tracer.path_of_module(module)
    # the root is no part of its graph
    return tracer.create_proxy("call_module", path, arguments, {}) if path else None
