"""The parameters of one layer in a GPU's memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ..parameters import LayerParameters
from .arrays import Array, Arrays


class DeviceParameters:
    """As `LayerParameters`, whose names, shapes and order these are, in one flat array on the device.

    The layer's own library holds the memory; other libraries see it through DLPack (`seen_by`).
    """

    def __init__(self, host: LayerParameters, arrays: Arrays, dtype: str) -> None:
        self.shapes = host.shapes
        self.named = host.named
        self.arrays = arrays
        self.number = len(host.directions)
        self.flat = arrays.zeros(host.flat.shape, dtype)
        self.directions = self.views(self.flat)
        self._seen: dict[str, list[dict[str, Array]]] = {arrays.name: self.directions}

    def views(self, flat: Array) -> list[dict[str, Array]]:
        """For each direction {short name: view into `flat`}; biases that are not there are left out."""
        places = self._places()
        return [{short: flat[start:end].reshape(shape) for short, start, end, shape in places_d} for places_d in places]

    def set(self, values: np.ndarray) -> None:
        """Copy a flat NumPy array into all parameters."""
        self.flat[...] = self.arrays.converted(self.arrays.from_host(values), self.arrays.dtype_name(self.flat))

    def seen_by(self, arrays: Arrays) -> list[dict[str, Array]]:
        """The same memory as arrays of another library."""
        if arrays.name not in self._seen:
            self._seen[arrays.name] = self.views(arrays.shared(self.flat))
        return self._seen[arrays.name]

    def _places(self) -> list[list[tuple[str, int, int, tuple[int, ...]]]]:
        def counted() -> Iterator[list[tuple[str, int, int, tuple[int, ...]]]]:
            start = 0
            for _ in range(self.number):
                places = []
                for short, shape in self.shapes.items():
                    end = start + math.prod(shape)
                    places.append((short, start, end, shape))
                    start = end
                yield places

        return list(counted())
