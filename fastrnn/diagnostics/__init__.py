"""Questions to a layer: how gradients flow through it, what its gates do, where a NaN comes from.

    flow = fastrnn.diagnostics.gradient_flow(layer, x)
    print(flow)

Every function takes a fastrnn LSTM, GRU or RNN, or a torch.nn one, its input and, optionally, its initial state, and
leaves them as they are. What comes back has arrays and a readable text. docs/diagnostics.md tells what they mean.
"""

from .consistency import per_step_weight_gradients, self_check
from .flow import GradientFlow, gradient_flow
from .gates import GateStatistics, gate_statistics
from .influence import Sensitivity, sensitivity
from .jacobian import Jacobians, jacobians
from .nans import FirstNaN, first_nan

__all__ = [
    "FirstNaN",
    "GateStatistics",
    "GradientFlow",
    "Jacobians",
    "Sensitivity",
    "first_nan",
    "gate_statistics",
    "gradient_flow",
    "jacobians",
    "per_step_weight_gradients",
    "self_check",
    "sensitivity",
]
