"""How the gradient of a loss flows back through time: what the loss injects at a step, and what is carried there.

The kernels' backward loop has dL/dh_t and dL/dc_t in its registers at every step. A variant of it
(`CpuLayer.gradients_in_time`) writes them down and leaves the gradients of the weights out. With I = H inputs, and the
G*H*H multiply-adds of W x_t or R h_{t-1} as the unit, for a step and row:

    a backward pass                   4: R^T da, dX, dW, dR
    this                              4: W x, R h of the forward pass, R^T da, dX

so all of `gradient_flow`, its forward pass too, is about one backward pass, and the norms, for which each array is
read once. A layer into which gradients come at many steps is gone back through twice, once with the last of them alone:
2 more. Getting dL/dh_t back afterwards from the gates' gradients that a backward pass leaves would be 2 + 4 + 1:
the forward pass, the backward pass, R^T da again. Only dL/dh_0 and dL/dc_0 of a call come out of `vjp`: a call for
each step would be T/2 times the work.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrnn.sequence import OptionalStates
from fastrnn.validation import State

from . import decay
from .runs import LayerGradients, LayerRun, Run, own_time

# The length of the default loss's gradient, before norms are divided by it: a power of two changes no digit. Gradients
# vanish more often than they explode by as much, and the processor is many times slower at numbers below the normal
# range of a dtype.
_LENGTH = 2.0**48

# the gate whose product is the path without matrices, by cell
MEMORY_GATES = {"lstm": "f", "gru": "z", "gru_reset_before": "z"}


@dataclass(frozen=True)
class GradientFlow:
    """What `gradient_flow` found.

    Row k of an array is layer k // D, direction k % D (`labels`). Column t is step t in the direction's own time: the
    last column is the step it computes last, where `lags` is 0. All norms are Euclidean, over batch and units, float64.

    labels          (L*D) "layer 0", "layer 0 reverse", ...
    lags            (T,) T-1 .. 0: how many steps the column is before the last
    hidden          (L*D, T) |dL/dh_t|, all of it
    injected        (L*D, T) |what the loss puts in at t|: dy_t, and dh_n at lag 0. For the layers below the last one
                    it is what the layer above hands down.
    carried         (L*D, T) |what arrives at h_t through later steps|; `hidden` is the norm of the sum of both vectors
    cell            (L*D, T) |dL/dc_t|, all of it: through h_t and through c_{t+1}. None without a cell state.
    direct          (L*D, T) what would arrive of the last step's dL/dc (GRU: dL/dh) if the forget (update) gates were
                    the only way back: to be seen beside `cell` (`hidden`). None for RNN.
    transmitted     (L*D, T) of what is injected at lag 0, how much is left at a lag if nothing else is injected:
                    |s_t| / |s_T|, where s is the gradient of the state, for the LSTM of (h, c) together. Where nothing
                    is injected at lag 0, of what is at the first lag at which something is, and NaN before.
    decay_per_step  (L*D,) exp of the slope of a straight line fitted to log(transmitted) by lag, by least squares,
                    where the gradient is neither 0 nor so small that the dtype has lost digits of it. NaN if there are
                    fewer than two such lags.
    half_life       (L*D,) steps in which that rate halves a gradient; infinite for 1 and above
    verdict         (L*D) in words, from `transmitted`: see `decay.verdict`
    title           the layer and its input
    """

    labels: list[str]
    lags: np.ndarray
    hidden: np.ndarray
    injected: np.ndarray
    carried: np.ndarray
    cell: np.ndarray | None
    direct: np.ndarray | None
    transmitted: np.ndarray
    decay_per_step: np.ndarray
    half_life: np.ndarray
    verdict: list[str]
    title: str

    def __str__(self) -> str:
        last = self.lags[0]
        rows = [["", "|dL/dh| at lag 0", f"at lag {last}", "per step", "half-life", ""]]
        for k, label in enumerate(self.labels):
            numbers = (self.hidden[k, -1], self.hidden[k, 0], self.decay_per_step[k], self.half_life[k])
            rows.append([label, *(f"{number:.3g}" for number in numbers), self.verdict[k]])
        left, *right, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
        lines = ["  ".join([row[0].ljust(left), *map(str.rjust, row[1:-1], right), row[-1]]).rstrip() for row in rows]
        return "\n".join([self.title, "", *lines])


def gradient_flow(
    layer: Any, x: np.ndarray, state: State = None, *, dy: np.ndarray | None = None, dstate: State = None
) -> GradientFlow:
    """Send the gradient of a loss back through a layer, and measure it at every step.

    layer   a fastrnn LSTM, GRU or RNN, of any number of layers and directions; or a torch.nn one
    x       as for calling the layer; at least one step and one row
    state   the initial state; zeros if omitted
    dy      the gradient of y, shaped as y; None for zeros
    dstate  the gradient of the final state, shaped as it; None for zeros. If dy is None too: a random vector of length
            1 towards the last layer's h after its last step (for each direction), the same one at every call, and
            nothing else. So `hidden` begins at 1 there, and says how much of a loss on the last output arrives.

    Dropout does not act; the layer stays as it is. TypeError or ValueError for an argument of a wrong type, dtype or
    shape.
    """
    run = Run(layer, x, state)
    length = _LENGTH if dy is None and dstate is None else 1.0
    upstream, dstates = run.loss(dy, dstate, length)
    with np.errstate(all="ignore"):
        return _flow(run, upstream, dstates, length)


def _flow(run: Run, upstream: np.ndarray | None, dstates: OptionalStates, length: float) -> GradientFlow:
    """Of a loss whose gradients are given, `length` times as large as it is."""
    D, has_cell = run.layer.num_directions, run.layer.cell == "lstm"
    found: list[_Measured] = []
    alone: list[_Measured] = []  # what is injected first, without what is injected after it
    for index in reversed(range(run.layer.num_layers)):
        if upstream is None:  # then there is nothing else
            dx, measured = _go_back(run, index, None, dstates)
            measured_alone = measured
        else:
            kept = run.layers[index].kept()
            dx, measured = _go_back(run, index, upstream, dstates)
            run.layers[index].keep(kept)
            _, measured_alone = _go_back(run, index, *_first_alone(upstream, dstates, index, measured))
        found[:0], alone[:0] = measured, measured_alone
        upstream = dx
        run.layers[index].release()
    smallest = float(np.finfo(run.layer.dtype).tiny)
    logs = [each.log_transmitted(smallest) for each in alone]
    rates = [decay.fitted(fit) for _, fit in logs]

    def norms(name: str) -> np.ndarray:
        return np.stack([getattr(each, name) for each in found]) / length

    transmitted = np.exp(np.stack([log[::-1] for log, _ in logs]))
    return GradientFlow(
        labels=[f"layer {k // D}{' reverse' * (k % D)}" for k in range(len(found))],
        lags=run.lags,
        hidden=norms("hidden"),
        injected=norms("injected"),
        carried=norms("carried"),
        cell=norms("cell") if has_cell else None,
        direct=norms("direct") if run.layer.cell in MEMORY_GATES else None,
        transmitted=transmitted,
        decay_per_step=np.array(rates),
        half_life=np.array([decay.half_life(rate) for rate in rates]),
        verdict=[decay.verdict(log) for log, _ in logs],
        title=run.title,
    )


@dataclass(frozen=True)
class _Measured:
    """The norms (T,) of one layer and direction; NaN where there is none.

    cell_carried  of what arrives at c_t through c_{t+1}, at the last step dc_n: with dL/dh_t the state's gradient
    """

    hidden: np.ndarray
    injected: np.ndarray
    carried: np.ndarray
    cell: np.ndarray
    cell_carried: np.ndarray
    direct: np.ndarray

    def state(self) -> np.ndarray:
        """The norm of the state's gradient by lag, (T,)."""
        return np.hypot(self.hidden, self.cell_carried)[::-1]

    def log_transmitted(self, smallest: float) -> tuple[np.ndarray, np.ndarray]:
        """log(transmitted) by lag, (T,), and the same to fit, without what is smaller than `smallest`.

        Of a pass into which something is injected at one step only.
        """
        state = self.state()
        first = _first(state)
        if first is None:
            nothing = np.full(len(state), np.nan)
            return nothing, nothing
        log = np.log(state) - np.log(state[first])
        log[:first], log[first] = np.nan, 0.0
        burst = np.flatnonzero(log == np.inf)
        if len(burst):
            log[burst[0] :] = np.inf  # inf - inf says nothing
        return log, np.where(state >= smallest, log, np.nan)


def _first(state: np.ndarray) -> int | None:
    """The first lag at which there is any gradient of the state, from its norms by lag."""
    there = np.flatnonzero(state != 0)
    return int(there[0]) if len(there) else None


def _go_back(
    run: Run, index: int, dy: np.ndarray | None, dstates: OptionalStates
) -> tuple[np.ndarray, list[_Measured]]:
    """Through one layer: dx, and what is measured on the way, for each direction."""
    directions = range(run.layer.num_directions)
    gates = [_memory_gate(run.layers[index], d) for d in directions]
    gradients = run.backward(index, dy, dstates)
    return gradients.dx, [_measure(gradients, d, gates[d]) for d in directions]


def _first_alone(
    dy: np.ndarray, dstates: OptionalStates, index: int, measured: list[_Measured]
) -> tuple[np.ndarray, OptionalStates]:
    """Of dy (T, B, D*R) and dstates, for each direction of layer `index` what it comes to first, the rest 0.

    In another length, so that it can shrink as far as the dtype allows.
    """
    first_dy, first_dstates = np.zeros_like(dy), tuple([None if s is None else np.zeros_like(s) for s in dstates])
    D = len(measured)
    for d, each in enumerate(measured):
        state = each.state()
        first = _first(state)
        if first is None:
            continue
        exponent = np.log2(_LENGTH) - np.log2(state[first])
        times = round(exponent) if np.isfinite(exponent) else 0  # so often twice
        to, of = (own_time(np.split(values, D, axis=2)[d], d) for values in (first_dy, dy))
        to[-1 - first] = np.ldexp(of[-1 - first], times)
        row = index * D + d
        for to_state, of_state in zip(first_dstates, dstates, strict=True):
            if first == 0 and to_state is not None and of_state is not None:
                to_state[row] = np.ldexp(of_state[row], times)
    return first_dy, first_dstates


def _memory_gate(run: LayerRun, direction: int) -> np.ndarray | None:
    """A copy (T, B, H): the backward pass overwrites what the layer kept."""
    name = MEMORY_GATES.get(run.sequence.layout.name)
    return None if name is None else run.values(direction)[name].copy()


def _measure(gradients: LayerGradients, direction: int, gate: np.ndarray | None) -> _Measured:
    from fastrnn.kernels.norms import norms, path_norms  # here, because it imports Numba

    dh = own_time(gradients.carried[direction], direction)
    dh_n = gradients.dstates[0]
    carried = norms(dh)
    carried[-1] = 0.0  # nothing comes after the last step: what stands there is dh_n
    dy = gradients.injected(direction)
    injected = np.zeros(len(dh)) if dy is None else norms(dy)
    if dy is None:
        hidden = carried.copy()
        if dh_n is not None:
            hidden[-1] = injected[-1] = norms(dh[-1:])[0]
    else:
        dh += dy
        hidden = norms(dh)
        injected[-1] = hidden[-1]
    missing = np.full(len(dh), np.nan)
    if gradients.cell is None:
        direct = missing if gate is None else path_norms(dh[-1], gate)
        return _Measured(hidden, injected, carried, missing, np.zeros(len(dh)), direct)
    assert gate is not None
    dc, dc_n = own_time(gradients.cell[direction], direction), gradients.dstates[1]
    direct = path_norms(dc[-1], gate)
    gate *= dc
    through = norms(gate)
    last = 0.0 if dc_n is None else norms(dc_n[direction][None])[0]
    return _Measured(hidden, injected, carried, norms(dc), np.append(through[1:], last), direct)
