"""The weights of one layer as the kernels read them, packed again when a parameter has changed."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from .kernels.locks import new_lock
from .matrices import Matrices, MatrixLayout, Packing
from .parameters import Directions, LayerParameters, ParameterLayout
from .watching import NOTHING, Pieces, Watched


class _Source:
    """Parameters in certain arrays: what looks whether they have changed, and what packs them."""

    def __init__(self, directions: Directions, arrays: Sequence[np.ndarray]) -> None:
        self.directions = directions
        self.watched = Watched(arrays)
        self.packing: dict[tuple[MatrixLayout, ...], Packing] = {}


class _Known(NamedTuple):
    """Weights as they were when last looked at. Never changed, only replaced: calls look at it without the lock."""

    source: _Source | None  # None if the arrays may have gone
    pieces: Pieces
    packed: dict[MatrixLayout, Matrices]  # the passes for which they have been packed


class Weights:
    """The packed weights of both passes, kept as long as no parameter changes.

    Changes are found by checksums of all parameters: a change of one number always shows, changes of several, unless
    they are made for it, are missed with a chance of about 2⁻⁶⁴.

    lanes  units of a group
    own    the parameters that are meant where a call names no other `source`; None if every call does
    available  says how many threads may be used
    """

    def __init__(
        self,
        layout: ParameterLayout,
        own: LayerParameters | None,
        dtype: np.dtype,
        lanes: int,
        available: Callable[[], int],
    ) -> None:
        self.lanes = lanes
        self._dtype = dtype
        self._available = available
        self.forward_layout = MatrixLayout(layout, dtype, lanes, backward=False)
        self.backward_layout = MatrixLayout(layout, dtype, lanes, backward=True)
        self._own = own
        self._known = _Known(None, NOTHING, {})
        # Whether they had changed when they were last looked at. A kernel looks itself, before it runs, so that a call
        # that finds them as they were enters compiled code once. Where they change at every call, that look would be in
        # vain, and all be read twice: then `expected` looks first, until they are found unchanged.
        self._changing = False
        self._lock = new_lock()

    def expected(
        self,
        layout: MatrixLayout,
        source: Directions | None = None,
        also: MatrixLayout | None = None,
        checksums: bytes | None = None,
    ) -> tuple[Matrices, Pieces]:
        """The matrices of one pass, `forward_layout` or `backward_layout`, as they were packed last, and what must not
        have changed since.

        Arguments as in `current`; and `checksums` that the parameters had a moment ago, if that is known. As `current`
        where nothing is packed, where the weights had changed last time and these are not the `checksums` packed from,
        and where there is so much to read that all threads should.
        """
        directions = self._directions(source)
        known = self._known
        matrices = known.packed.get(layout)
        held = known.source
        same = held is not None and held.directions is directions and not held.watched.together
        if matrices is None or not same or (self._changing and matrices.checksums != checksums):
            return self.current(layout, source, also), NOTHING
        return matrices, known.pieces

    def current(
        self, layout: MatrixLayout, source: Directions | None = None, also: MatrixLayout | None = None
    ) -> Matrices:
        """The matrices of one pass, `forward_layout` or `backward_layout`, packed from the parameters as they are now.

        source  arrays to take in place of the layer's parameters, C-contiguous and with their shapes and dtype
        also    those that will be wanted next, to be packed together with these if these have to be
        """
        directions = self._directions(source)
        known = self._known
        held = known.source
        if held is None or held.directions is not directions:
            held = _Source(directions, self._arrays(directions))
        pieces = held.watched.pieces(self._available() if held.watched.together else 1)
        matrices = known.packed.get(layout)
        if matrices is not None and known.source is held and pieces.checksums == known.pieces.checksums:
            self._changing = False
            return matrices
        with self._lock:
            known = self._known  # another call may have packed them meanwhile
            packed = known.packed
            if pieces.checksums != known.pieces.checksums:
                packed, self._changing = {}, known.pieces is not NOTHING
            matrices = packed.get(layout)
            if matrices is None:
                passes = (layout,) if also is None or also in packed else (layout, also)
                packs = held.packing.get(passes)
                if packs is None:
                    packs = held.packing[passes] = Packing(directions, passes, self._dtype)
                # in new memory: a call in another thread may still read the old
                packed = packed | packs.run(pieces.checksums, self._available())
                matrices = packed[layout]
            self._known = _Known(held, pieces, packed)
            return matrices

    def release(self) -> None:
        """Keep no array of `source`, only what was packed from it."""
        with self._lock:
            self._known = self._known._replace(source=None)

    def _directions(self, source: Directions | None) -> Directions:
        if source is None:
            assert self._own is not None
            return self._own.directions
        return source

    def _arrays(self, directions: Directions) -> list[np.ndarray]:
        """The memory that these parameters are in."""
        if self._own is not None and directions is self._own.directions:
            return [self._own.flat]
        return [array for direction in directions for array in direction.values()]
