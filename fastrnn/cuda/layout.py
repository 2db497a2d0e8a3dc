"""How the caller of a layer lays out arrays on a GPU: `Layout` for one of the array libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fastrnn.layout import Layout

from .arrays import Array
from .kinds import Kind, same_kind

if TYPE_CHECKING:
    from .network import DeviceNetwork


class DeviceLayout(Layout):
    """Arguments of any kind come as arrays of the library of `kind`, in place, and are checked as NumPy arrays are."""

    def __init__(self, network: DeviceNetwork, kind: Kind) -> None:
        network.check_device(kind.arrays)
        self._kind = kind
        super().__init__([layer.layout for layer in network.layers], network.batch_first, network.dtype)
        self._device_number = network.device_number

    def frame(self, name: str, value: object, shape: tuple[int, ...]) -> Array:
        """One time step of a stream, in the kind's library."""
        return self._shaped_array(name, value, shape)

    def _array(self, name: str, value: object) -> Array:
        array, arrays = same_kind(name, value, self._kind), self._kind.arrays
        if arrays.dtype_name(array) != self.dtype.name:
            raise TypeError(f"{name}: expected {self.dtype}, got {arrays.dtype_name(array)}")
        number = arrays.device_number(array)
        if number != self._device_number:
            raise ValueError(f"{name}: expected an array on cuda:{self._device_number}, got one on cuda:{number}")
        return array

    def _contiguous(self, value: Array) -> Array:
        return self._kind.arrays.contiguous(value)

    def _make_zero_states(self) -> Callable[[int], tuple[Array, ...]]:
        """New ones at each call: a stream keeps them as its own."""
        return lambda batch: tuple(
            [self._kind.arrays.zeros((self.rows, batch, width), self.dtype.name) for width in self.widths]
        )
