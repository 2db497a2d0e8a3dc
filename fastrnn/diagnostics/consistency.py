"""Whether the diagnostics agree with each other, with the layer's own gradients, and with finite differences."""

from typing import Any

import numpy as np

from fastrnn.check_report import Quantity, Report
from fastrnn.checking import twin
from fastrnn.validation import State

from .jacobian import step_jacobians
from .runs import LayerGradients, Run, as_layer, one_direction, own_time

# How far apart two ways to the same number may be, relative to the largest magnitude in the array: roundings of long
# sums, far below any error in a formula.
_BOUNDS = {"float32": 5e-5, "float64": 1e-11}
_DIFFERENCE_BOUND = 1e-7  # of central differences
_DIFFERENCE = 1e-5  # their step: errors of its square, and of 1e-16 divided by it


def per_step_weight_gradients(
    layer: Any,
    x: np.ndarray,
    state: State = None,
    *,
    dy: np.ndarray | None = None,
    dstate: State = None,
    layer_index: int = 0,
    direction: int = 0,
) -> dict[str, np.ndarray]:
    """What each step adds to the gradients of the weights: {PyTorch's name: (T, *shape)}.

    Step t is in the direction's own time. The sum over t is what `vjp` gives. Memory: T times that of the parameters of
    this layer and direction.

    The arguments, and the loss if both dy and dstate are None, are those of `gradient_flow`; layer_index and direction
    say whose weights.
    """
    layer = as_layer(layer)
    layer_index, direction = one_direction(layer, layer_index, direction)
    run = Run(layer, x, state)
    values = {name: value.copy() for name, value in run.layers[layer_index].values(direction).items()}
    with np.errstate(all="ignore"):
        gradients = _by_step(run.backward_to(layer_index, *run.loss(dy, dstate)), values, direction)
    layout = run.layers[layer_index].sequence.layout
    names = layout.named(layer_index, [{short: short for short in layout.shapes}] * (direction + 1))
    return {name: gradients[short] for name, short in list(names.items())[-len(layout.shapes) :]}


def _by_step(gradients: LayerGradients, values: dict[str, np.ndarray], direction: int) -> dict[str, np.ndarray]:
    """{short name: (T, *shape)}: for each step the sum over the batch, as the cell's table says what is multiplied."""
    run, layout = gradients.run, gradients.run.sequence.layout
    planes = gradients.gates(direction)
    dh = own_time(gradients.carried[direction], direction)
    injected = gradients.injected(direction)
    planes["dh"] = dh if injected is None else dh + injected
    operands = values | {"x": own_time(run.x, direction), "h_prev": run.previous(direction)}
    T = len(dh)
    result = {short: np.zeros((T, *shape), dh.dtype) for short, shape in layout.shapes.items()}
    for entry in layout.cell.weight_gradients:
        for number, name in enumerate(entry.planes):
            width = planes[name].shape[2]
            block = slice((entry.gate + number) * width, (entry.gate + number + 1) * width)
            for weight, operand in entry.products:
                result[weight][:, block] = np.matmul(planes[name].transpose(0, 2, 1), operands[operand])
            for bias in set(entry.biases) & result.keys():
                result[bias][:, block] = planes[name].sum(axis=1)
    return result


def self_check(
    layer: Any, x: np.ndarray, state: State = None, *, row: int = 0, layer_index: int = 0, direction: int = 0
) -> Report:
    """Check the diagnostics of one layer and direction on one input; `print` shows the report.

    jacobian, backward     `jacobians` against a backward pass of the kernels through each step alone
    jacobian, differences  and against central differences of the NumPy reference, in float64
    carried                what `gradient_flow` says is carried to h_t against the Jacobian times the gradients after it
    d<name>, sum of steps  `per_step_weight_gradients`, summed, against the gradient that `vjp` gives

    The arguments are those of `jacobians`. Takes S backward passes and 2 S forward passes of one row. A relu whose
    argument is within 1e-5 of its corner has no difference to compare with, and shows as a failure of the second line;
    NaN and infinity show as failures wherever they come.
    """
    layer = as_layer(layer)
    layer_index, direction = one_direction(layer, layer_index, direction)
    run = Run(layer, x, state, row=row)
    bound = _BOUNDS[run.layer.dtype.name]
    with np.errstate(all="ignore"):
        matrices = step_jacobians(run, layer_index, direction)[:, 0]
        quantities = [
            _compared("jacobian, backward", _jacobians_by_backward(run, layer_index, direction), matrices, bound),
            _compared(
                "jacobian, differences",
                _jacobians_by_differences(run, layer_index, direction),
                matrices,
                max(bound, _DIFFERENCE_BOUND),
                _rounding_of_differences(run, layer_index, direction),
            ),
            _carried_by_jacobians(run, layer_index, direction, matrices, bound),
            *_sums_of_steps(layer, x, state, layer_index, direction, bound),
        ]
    return Report(f"{run.title}, row {row}, layer {layer_index}{' reverse' * direction}", tuple(quantities))


def _one_step_states(run: Run, layer_index: int, direction: int) -> tuple[np.ndarray, ...]:
    """The states (T, n) before each step of the first row."""
    layer_run = run.layers[layer_index]
    return tuple(layer_run.previous(direction, n)[:, 0] for n in range(len(layer_run.states)))


def _repeated_step(run: Run, layer_index: int, direction: int, t: int, states: Any, number: int) -> Any:
    """x (1, number, in) of one step, and states (D, number, n): those given in this direction, zeros in the other."""
    layer_run = run.layers[layer_index]
    x = own_time(layer_run.x, direction)[t, 0]
    full = []
    for values, initial in zip(states, layer_run.states, strict=True):
        array = np.zeros((len(initial), number, values.shape[-1]), values.dtype)
        array[direction] = values
        full.append(array)
    return np.repeat(x[None, None], number, axis=1), tuple(full)


def _jacobians_by_backward(run: Run, layer_index: int, direction: int) -> np.ndarray:
    sequence = run.layers[layer_index].sequence
    befores = _one_step_states(run, layer_index, direction)
    widths = [before.shape[1] for before in befores]
    eye = np.split(np.eye(sum(widths), dtype=run.layer.dtype), np.cumsum(widths)[:-1], axis=1)
    result = []
    for t in range(run.steps):
        x, states = _repeated_step(run, layer_index, direction, t, [before[t] for before in befores], sum(widths))
        _, _, saved = sequence.forward(x, states, save=True)
        _, dstates = _repeated_step(run, layer_index, direction, t, eye, sum(widths))
        _, dstates_0, _ = sequence.backward(saved, None, dstates)
        result.append(np.concatenate([d[direction] for d in dstates_0], axis=1))
    return np.stack(result)


def _jacobians_by_differences(run: Run, layer_index: int, direction: int) -> np.ndarray:
    double = np.dtype(np.float64)
    sequence = twin(run.layer, double).sequences[layer_index]
    befores = _one_step_states(run, layer_index, direction)
    widths = [before.shape[1] for before in befores]
    moves = _DIFFERENCE * np.concatenate([np.eye(sum(widths)), -np.eye(sum(widths))])
    result = []
    for t in range(run.steps):
        around = np.concatenate([before[t] for before in befores]).astype(double) + moves
        split = np.split(around, np.cumsum(widths)[:-1], axis=1)
        x, states = _repeated_step(run, layer_index, direction, t, split, len(moves))
        _, after, _ = sequence.forward(x.astype(double), states, save=False)
        plus, minus = np.split(np.concatenate([s[direction] for s in after], axis=1), 2)
        result.append((plus - minus).T / (2 * _DIFFERENCE))
    return np.stack(result)


def _carried_by_jacobians(run: Run, layer_index: int, direction: int, matrices: np.ndarray, bound: float) -> Quantity:
    """carried_{t-1} = the part of J_t^T (dL/dh_t, what c_{t+1} hands to c_t) that is h's; for c, f times dL/dc."""
    gradients = run.backward_to(layer_index, *run.loss(None, None))
    carried = own_time(gradients.carried[direction], direction)[:, 0].astype(np.float64)
    injected = gradients.injected(direction)
    dh = carried if injected is None else carried + injected[:, 0]
    expected = np.zeros_like(carried[:-1])
    cell_part = np.zeros(matrices.shape[1] - dh.shape[1])
    for t in range(run.steps - 1, 0, -1):
        back = matrices[t].T @ np.concatenate([dh[t], cell_part])
        expected[t - 1], cell_part = back[: dh.shape[1]], back[dh.shape[1] :]
    return _compared("carried", carried[:-1], expected, bound)


def _sums_of_steps(
    layer: Any, x: np.ndarray, state: State, layer_index: int, direction: int, bound: float
) -> list[Quantity]:
    run = Run(layer, x, state)
    steps = per_step_weight_gradients(layer, x, state, layer_index=layer_index, direction=direction)
    upstream, dstates = run.loss(None, None)
    D = run.layer.num_directions
    for index in range(run.layer.num_layers - 1, layer_index - 1, -1):
        own = tuple(None if s is None else s[index * D : (index + 1) * D] for s in dstates)
        layer_run = run.layers[index]
        upstream, _, dweights = layer_run.sequence.backward(layer_run.saved, upstream, own)
    whole = layer_run.sequence.layout.named(layer_index, dweights)
    return [_compared(f"d{name}, sum of steps", s.sum(axis=0), whole[name], bound) for name, s in steps.items()]


def _rounding_of_differences(run: Run, layer_index: int, direction: int) -> float:
    """What rounding leaves of the comparison where all units are saturated, and the Jacobian is almost 0.

    A difference of states has the roundings of both, divided by the distance; and in the layer's dtype factors such as
    1 - h² of the Jacobian, which R is multiplied by, are known to a few units in the last place of 1.
    """
    eps, eps_of_layer = np.finfo(np.float64).eps, np.finfo(run.layer.dtype).eps
    states = [np.max(np.abs(values), initial=1.0) for values in _one_step_states(run, layer_index, direction)]
    R = run.layer.sequences[layer_index].parameters.directions[direction]["weight_hh"]
    return float(eps / _DIFFERENCE * max(states) + 4 * eps_of_layer * np.max(np.abs(R), initial=1.0))


def _compared(name: str, values: np.ndarray, truth: np.ndarray, bound: float, absolute: float = 0.0) -> Quantity:
    """As in `fastrnn.check`: the largest difference, relative to the largest magnitude. `absolute`: allowed besides."""
    largest = float(np.max(np.abs(truth), initial=0.0)) or 1.0
    error = float(np.max(np.abs(values - truth), initial=0.0)) / largest
    allowed = bound + absolute / largest
    return Quantity(name, truth.shape, error, allowed, bool(error <= allowed))
