"""Frame by frame: a layer as a machine that takes one time step at a call."""

import copy
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from . import threads, validation
from .kernels.block import WORKER_WORDS
from .memory import CACHE_LINE, address, empty, up
from .validation import State

if TYPE_CHECKING:
    from .layers import Recurrent


class FrameByFrame:
    """What the streams of all devices share."""

    def __init__(self, layer: "Recurrent", batch_size: int) -> None:
        if layer.bidirectional:
            raise ValueError("a stream needs a layer of one direction, got bidirectional=True: it begins at both ends")
        self._batch_size = validation.size("batch_size", batch_size, least=1)
        self._dtype = layer.dtype

    @property
    def batch_size(self) -> int:
        """B."""
        return self._batch_size

    @property
    def dtype(self) -> np.dtype:
        """That of frames, states and results."""
        return self._dtype

    def __reduce__(self) -> NoReturn:
        raise TypeError("a stream can be neither copied nor pickled: make another one, and reset it to stream.state")


class Stream(FrameByFrame):
    """A layer run one time step at a call; it keeps the state from call to call.

    A stream takes a snapshot of the layer's parameters, and allocates its memory, when it is made. Fed a sequence frame
    by frame it gives the same bits as one call over the whole sequence. Dropout does not act. One stream must not be
    stepped by several threads at once.

    layer        a layer of one direction: a second one would begin at a sequence's end. ValueError otherwise.
    batch_size   B, sequences side by side. MemoryError if what it needs does not fit into memory.
    """

    def __init__(self, layer: "Recurrent", batch_size: int = 1) -> None:
        super().__init__(layer, batch_size)
        self._shape = (self.batch_size, layer.input_size)
        self._flat_shape = (layer.input_size,) if self.batch_size == 1 else None
        L, B = layer.num_layers, self.batch_size
        # before a step and after it, in turn: an error or an interrupt leaves the state as it was
        widths = layer.sequences[-1].layout.state_widths
        try:
            self._states = [tuple([np.zeros((L, B, width), self.dtype) for width in widths]) for turn in range(2)]
            self._x = np.zeros(self._shape, self.dtype)
        except (MemoryError, ValueError) as error:  # the second for more than any array can have
            raise MemoryError(f"batch_size={B}: the states do not fit into memory: {error}") from error
        self._turn = 0
        self._outputs = [h[-1] for h, *_ in self._states]
        self._flat_outputs = [y[0] for y in self._outputs] if B == 1 else self._outputs
        steps = _CpuSteps if layer.backend == "cpu" else _ReferenceSteps
        self._run = steps(layer, self._x, self._states).run

    def step(self, x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Take one frame, x (B, I), or (I,) if B is 1, and return the last layer's h, (B, R) or (R,).

        With `out`, an array of that shape, the result is written there, and no memory is taken. TypeError and
        ValueError as in calling the layer; after these, or an interrupt (Ctrl-C), the state is unchanged.
        """
        if (
            type(x) is not np.ndarray
            or x.dtype != self._dtype
            or (x.shape != self._shape and x.shape != self._flat_shape)
        ):
            self._check("x", x, self._shape, self._flat_shape)
        y = (self._outputs if x.ndim == 2 else self._flat_outputs)[1 - self._turn]
        if out is not None and (
            type(out) is not np.ndarray or out.dtype != self._dtype or out.shape != y.shape or not out.flags.writeable
        ):
            self._check("out", out, y.shape, None)
            if not out.flags.writeable:
                raise ValueError("out: expected a writeable array, got a read-only one")
        self._x[...] = x
        self._run(self._turn)
        if out is None:
            out = y.copy()
        else:
            out[...] = y
        self._turn = 1 - self._turn  # last: no call follows, after which Python would hear an interrupt
        return out

    @property
    def state(self) -> State:
        """A copy of the state: h (L, B, R), for the LSTM (h, c) with c (L, B, H)."""
        state = tuple([array.copy() for array in self._states[self._turn]])
        return state if len(state) == 2 else state[0]

    def reset(self, state: State = None) -> None:
        """Go back to a state of zeros, or to the one given, shaped as `state`.

        TypeError and ValueError as in `step`.
        """
        then = dict(zip(("h", "c"), self._states[1 - self._turn], strict=False))
        given: dict[str, Any] = dict.fromkeys(then, 0)
        if state is not None:
            given = dict(zip(then, validation.state_arrays("state", tuple(then), state), strict=True))
            for name, value in given.items():
                self._check(name, value, then[name].shape, None)
        for name, value in given.items():
            then[name][...] = value
        self._turn = 1 - self._turn  # last, as in `step`

    def _check(self, name: str, value: object, shape: tuple[int, ...], other: tuple[int, ...] | None) -> None:
        given = validation.array(name, value, self.dtype).shape
        if given not in (shape, other):
            also = f" or {other}" if other is not None else ""
            raise ValueError(f"{name}: expected shape {shape}{also}, got {given}")


class _CpuSteps:
    """The argument blocks of all layers, one set for each turn, filled once."""

    def __init__(self, layer: "Recurrent", x: np.ndarray, states: list[tuple[np.ndarray, ...]]) -> None:
        layers = [sequence.kernels() for sequence in layer.sequences]
        from .kernels import compiled, record  # and Numba, which the first of them has imported

        plans = [kernels.step_plan(len(x)) for kernels in layers]
        self._kernel = plans[0].kernel
        self._workers = [plan.workers for plan in plans]
        words = up(max(plan.template.words for plan in plans), CACHE_LINE // 8)  # layers may differ in workers
        self._blocks = empty((2, len(layers), words), np.dtype(np.int64))
        self._alive: list[Any] = [x, states]
        for turn in range(2):
            before, after = states[turn], states[1 - turn]
            for n, kernels in enumerate(layers):
                below = x if n == 0 else after[0][n - 1]
                block = self._blocks[turn, n, : plans[n].template.words]
                self._alive += kernels.bind_step(plans[n], block, below, [s[n] for s in before], [s[n] for s in after])
        self._addresses = [[address(block) for block in blocks] for blocks in self._blocks]
        records = [record.of_blocks(self._kernel, first, 8 * words, len(layers)) for first, *_ in self._addresses]
        self._alive += records
        self._records = list(map(address, records))
        self._run_record = compiled.run_record
        self.run = self._run_alone if all(workers == 1 for workers in self._workers) else self._run_together

    def _run_alone(self, turn: int) -> None:
        self._run_record(self._records[turn])

    def _run_together(self, turn: int) -> None:
        for block, place, workers in zip(self._blocks[turn], self._addresses[turn], self._workers, strict=True):
            block[:WORKER_WORDS] = 0
            threads.run(self._kernel, place, min(workers, threads.available()))


class _ReferenceSteps:
    """The same by the NumPy reference, on a copy of the layer."""

    def __init__(self, layer: "Recurrent", x: np.ndarray, states: list[tuple[np.ndarray, ...]]) -> None:
        self._layer = copy.deepcopy(layer).eval()
        self._x, self._states = x, states

    def run(self, turn: int) -> None:
        before, after = self._states[turn], self._states[1 - turn]
        frame = self._x[:, None] if self._layer.batch_first else self._x[None]
        _, state = self._layer(frame, before if len(before) == 2 else before[0])
        for array, values in zip(after, (state,) if len(after) == 1 else state, strict=True):
            array[...] = values
