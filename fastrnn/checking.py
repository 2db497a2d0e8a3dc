"""Kernels against the reference, for one layer on one input: the outputs and every gradient.

The truth is what the reference computes in float64 from the layer's own parameters. An error is the largest difference
from it among the finite values of an array, relative to the largest magnitude there.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import validation
from .check_report import Quantity, Report
from .layers import Recurrent
from .validation import Lengths, State

if TYPE_CHECKING:
    from .cuda.on_host import OnHost

Arrays = Mapping[str, np.ndarray]


class Bound(NamedTuple):
    """The largest error allowed in an array: the larger of

    least + of_chain * sqrt(n)  n: the terms of the longest sum in the layer
    of_reference * e            e: the reference's own error in the layer's dtype
    """

    least: float
    of_chain: float
    of_reference: float


_EPS = 2.0**-23  # of float32

BOUNDS = {
    # The reference is the truth here and its own error 0, but see `_perturbed`. Sums of thousands of terms
    # round to some 1e-14.
    "float64": Bound(1e-12, 0.0, 4.0),
    # 4: as accurate as plain float32 arithmetic on this very layer and input. But on few numbers the reference may be
    # exact by luck: 8 eps are what the roundings and the 2-ulp functions of one step can add up to. And each sum of the
    # kernels is one chain of n roundings that add up like random steps, where NumPy sums in blocks.
    "float32": Bound(8 * _EPS, _EPS / 4, 4.0),
    # On GPUs only, where numbers are stored so and h is rounded at every step; the reference has no such type.
    "float16": Bound(2e-2, 0.0, 4.0),
    "bfloat16": Bound(5e-2, 0.0, 4.0),
}

_PERTURBED_RUNS = 8


def check(
    layer: Recurrent,
    x: np.ndarray,
    state: State = None,
    *,
    lengths: Lengths = None,
    seed: int = 0,
    recompute: bool = False,
) -> Report:
    """Compare a layer, as it is, with the reference on the same parameters and input.

    x          as for calling the layer
    state      the initial state; random if omitted, not zero: zeros would hide errors
    lengths    as for calling the layer
    seed       of that state and of the gradients of y and the final state, all standard normal
    recompute  as for `vjp`

    Compared are the outputs of a call and of `vjp`, and the gradients of x, the initial state and every parameter (see
    `BOUNDS`). Where the reference in the layer's dtype gives NaN or infinity, the layer must give the same, and nowhere
    else. A layer with dropout that is in training is compared under the masks it would draw next. Its parameters,
    training flag and dropout generator stay as they are.

    The reference is NumPy and keeps every step: its time and memory are many times those of the layer. Where a layer
    makes rounding grow until no digit is left, there is nothing to compare, nor what is NaN or infinite where rounding
    alone decides that in the reference too; the report says so.

    TypeError or ValueError for an argument of a wrong type, dtype or shape.
    """
    if not isinstance(layer, Recurrent):
        raise TypeError(f"layer: expected a fastrnn.LSTM, GRU or RNN, got {validation.full_name(layer)}")
    recompute = layer._checked_recompute(recompute)
    seed = validation.size("seed", seed, least=0)
    if layer.device == "cuda":
        return _check_on_device(layer, x, state, lengths, seed)
    return judge(layer, expect(layer, x, state, seed, lengths), recompute=recompute)


def _check_on_device(layer: Recurrent, x: Any, state: State, lengths: Lengths, seed: int) -> Report:
    from .cuda.kinds import kind_of
    from .cuda.layout import DeviceLayout
    from .cuda.network import refuse
    from .cuda.on_host import on_host

    refuse(lengths)
    DeviceLayout(layer._network, kind_of("x", x)).inputs(x, state)  # refuses what calling the layer would
    if state is not None:
        state = tuple(map(on_host, state)) if isinstance(state, tuple | list) else on_host(state)
    return check_on_device(layer, on_host(x), state, seed)


def check_on_device(layer: Recurrent, x: np.ndarray, state: State = None, seed: int = 0) -> Report:
    """As `check`, of a layer on a GPU from NumPy arrays, float32 or float64 as the reference has them."""
    from .cuda.on_host import OnHost, reference_twin

    twin = reference_twin(layer)
    inputs = inputs_of(twin, x.astype(twin.dtype), state, seed)
    # numbers that the layer's type has: rounding its inputs is no error of the layer
    inputs = inputs.mapped(lambda array: array.astype(layer.dtype).astype(twin.dtype))
    return judge(OnHost(layer, twin), expected_of(twin, inputs), BOUNDS[layer.dtype.name])


class Inputs(NamedTuple):
    """What a layer is run on, laid out as its caller does."""

    x: np.ndarray
    state: State
    lengths: Lengths
    dy: np.ndarray
    dstate: State

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> "Inputs":
        def of_state(state: State) -> State:
            return tuple(map(function, state)) if isinstance(state, tuple | list) else function(state)

        return Inputs(function(self.x), of_state(self.state), self.lengths, function(self.dy), of_state(self.dstate))


class Expected(NamedTuple):
    """What the reference makes of a layer's inputs."""

    reference: Recurrent  # in the layer's place and dtype
    inputs: Inputs
    truth: Arrays  # in float64
    same: Arrays  # in the layer's dtype


def expect(layer: Recurrent, x: np.ndarray, state: State, seed: int, lengths: Lengths = None) -> Expected:
    """Run the reference in the layer's place. Arguments as in `check`."""
    return expected_of(layer, inputs_of(layer, x, state, seed, lengths))


def inputs_of(layer: Recurrent, x: np.ndarray, state: State, seed: int, lengths: Lengths = None) -> Inputs:
    """What `check` runs a layer on; random where it is not given."""
    layout = layer._network.layout
    inside, zeros, batched = layout.inputs(x, state)
    layout.padded(lengths, inside, batched)
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape).astype(layer.dtype)

    def random_state() -> State:
        return layout.given_state(tuple(normal(*z.shape) for z in zeros), batched)

    state = random_state() if state is None else state
    return Inputs(x, state, lengths, normal(*x.shape[:-1], layout.output_size), random_state())


def expected_of(layer: Recurrent, inputs: Inputs) -> Expected:
    """What the reference makes of the inputs in the layer's place."""
    double, reference = np.dtype(np.float64), twin(layer, layer.dtype)
    truth = _run(twin(layer, double), inputs.mapped(lambda array: array.astype(double)))
    same = truth if layer.dtype == double else _run(reference, inputs)
    return Expected(reference, inputs, truth, same)


def judge(
    layer: "Recurrent | OnHost", expected: Expected, bound: Bound | None = None, *, recompute: bool = False
) -> Report:
    """Run the layer on the inputs and compare: the part of `check` that can be repeated.

    bound  if not that of the layer's dtype
    """
    _, inputs, truth, same = expected
    results = _run(layer, inputs, recompute)
    bound = bound or BOUNDS[layer.dtype.name]
    least = bound.least + bound.of_chain * math.sqrt(_longest_sum(layer, inputs.x))
    own_errors = {name: _error(same[name], truth[name], layer.dtype) for name in truth}
    unsure: set[str] = set()  # where rounding alone makes NaN and infinity come and go

    def compare() -> tuple[Quantity, ...]:
        allowed = {name: max(least, bound.of_reference * own_errors[name]) for name in truth}
        return tuple(
            _compare(name, results[name], truth[name], same[name], allowed[name], name in unsure) for name in truth
        )

    quantities = compare()
    if not all(q.ok for q in quantities):
        for perturbed in _perturbed(expected):
            for name in truth:
                own_errors[name] = max(own_errors[name], _error(perturbed[name], truth[name], layer.dtype))
                if not np.array_equal(_kinds(perturbed[name]), _kinds(same[name])):
                    unsure.add(name)
        quantities = compare()
    title = f"{layer!r}, x {inputs.x.shape}"
    return Report(f"{title}, recompute=True" if recompute else title, quantities)


def _run(
    layer: "Recurrent | OnHost",
    inputs: Inputs,
    recompute: bool = False,
    kept: Callable[[np.ndarray], np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """All that is compared, by name. The dropout generator is left as it was found.

    kept  makes other numbers of all that the reference keeps for its backward pass
    """
    masks = layer._generator.bit_generator
    before = masks.state
    try:
        y, state_n = layer(inputs.x, inputs.state, inputs.lengths)
        masks.state = before
        (vjp_y, vjp_state_n), backward = layer.vjp(inputs.x, inputs.state, inputs.lengths, recompute=recompute)
        if kept is not None:
            _move_kept(backward, kept)
        gradients = backward(inputs.dy, inputs.dstate)
    finally:
        masks.state = before
    return {
        "y": y,
        **_named("{}_n", state_n),
        "vjp y": vjp_y,
        **_named("vjp {}_n", vjp_state_n),
        "dx": gradients.x,
        **_named("d{}_0", gradients.state),
        **{f"d{name}": gradient for name, gradient in gradients.parameters.items()},
    }


def twin(layer: Recurrent, dtype: np.dtype, backend: str = "reference") -> Recurrent:
    """The layer on another backend: the same parameters in `dtype`, and the same dropout masks to come."""
    other = type(layer).__new__(type(layer))
    other.__setstate__(layer.__getstate__() | {"backend": backend, "dtype": dtype})
    return other


def _perturbed(expected: Expected) -> Iterator[Arrays]:
    """What the reference gives on numbers that were moved by up to one unit in the last place: more of its errors.

    One run may be right by luck where rounding decides: in sums that cancel, in relu's derivative where its argument is
    almost 0, or in tanh's, 1 - h², where h is almost 1: therefore what the backward pass reads is moved too. And a
    layer may make rounding grow from step to step, in float64 too. So before anything is called wrong, the reference
    gets more chances to be. The price: among millions of relu units some are always that near 0, and the bound of dx
    then lets errors of that size pass.
    """
    generator = np.random.default_rng(0)
    dtype = expected.reference.dtype
    eps = np.finfo(dtype).eps

    def moved(values: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return values * (1 + eps * generator.uniform(-1, 1, values.shape)).astype(values.dtype)

    for _ in range(_PERTURBED_RUNS):
        other = twin(expected.reference, dtype)
        for parameter in other.parameters.values():
            parameter[...] = moved(parameter)
        yield _run(other, expected.inputs.mapped(moved), kept=moved)


def _move_kept(backward: Any, moved: Callable[[np.ndarray], np.ndarray]) -> None:
    """Put other numbers in the place of those that the reference has kept for this backward pass."""
    (saved,) = backward._saved
    for layer in saved.layers:
        runs = getattr(layer, "runs", [])  # what is empty has none
        for number, (*where, run) in enumerate(runs):
            steps = tuple((t, tuple(map(moved, values))) for t, values in run.steps)
            runs[number] = (*where, replace(run, steps=steps))


def _longest_sum(layer: "Recurrent | OnHost", x: np.ndarray) -> int:
    """The most terms in a sum of the layer: forward, backward, or over steps and batch in a parameter's gradient."""
    layouts = [sequence.layout for sequence in layer.sequences]
    forward = max(layout.input_size for layout in layouts) + layouts[0].output_size
    return max(forward, layouts[0].cell.gates * layer.hidden_size, x.size // layer.input_size)


def _compare(
    name: str, result: np.ndarray, truth: np.ndarray, same: np.ndarray, allowed: float, unsure: bool
) -> Quantity:
    """`result` against `truth`; `same` is what the reference gave in the layer's dtype.

    unsure  whether rounding alone decides, in the reference, which values are NaN or infinite
    """
    if (result.shape, result.dtype) != (same.shape, same.dtype):
        note = f"expected {same.dtype} {same.shape}, got {result.dtype} {result.shape}"
        return Quantity(name, same.shape, math.inf, allowed, False, note)
    error = _error(result, truth, same.dtype)
    differing = np.count_nonzero(_kinds(result) != _kinds(same))
    special = np.count_nonzero(_kinds(same))
    note = ""
    if differing and unsure:
        note = f"{differing} of {same.size} values NaN or infinite on one side only, which rounding decides"
    elif differing:
        note = f"{differing} of {same.size} values NaN or infinite on one side only"
    elif special:
        note = f"{special} of {same.size} values NaN or infinite on both sides alike"
    elif allowed >= 1:
        note = "rounding leaves no digit to compare"
    ok = (error <= allowed or allowed >= 1) and (not differing or unsure)
    return Quantity(name, same.shape, error, allowed, ok, note)


def _kinds(values: np.ndarray) -> np.ndarray:
    """0 for finite values, other numbers for NaN, infinity and minus infinity."""
    return np.isnan(values) + 2 * np.isposinf(values) + 3 * np.isneginf(values)


def _error(values: np.ndarray, truth: np.ndarray, dtype: np.dtype) -> float:
    """The largest difference among finite values, relative to the largest magnitude of the truth.

    Magnitudes so small that underflow in `dtype` costs them digits on the way count as the smallest that is not.
    """
    limits = np.finfo(dtype)
    magnitude = max(_largest(truth, np.isfinite(truth)), float(limits.tiny) / float(limits.eps))
    with np.errstate(invalid="ignore"):  # infinity less infinity, where nothing is compared
        return _largest(values - truth, np.isfinite(values) & np.isfinite(truth)) / magnitude


def _largest(values: np.ndarray, where: np.ndarray) -> float:
    return float(np.max(np.abs(values), where=where, initial=0.0))


def _named(name: str, state: State) -> dict[str, np.ndarray]:
    arrays = state if isinstance(state, tuple) else (state,)
    return {name.format(letter): array for letter, array in zip("hc", arrays, strict=False)}
