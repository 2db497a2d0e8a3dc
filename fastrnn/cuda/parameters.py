"""The parameters of one layer in a GPU's memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrnn.kernels.cuda.launch import wait_for_device
from fastrnn.parameters import LayerParameters, present

from .arrays import Array, Arrays


class DeviceParameters:
    """As `LayerParameters`, with its names, shapes and order, in one flat array on the device.

    `arrays` holds the memory; other libraries see it through DLPack (`seen_by`).
    """

    def __init__(
        self, arrays: Arrays, cell: str, sizes: tuple[int, int, int], bias: bool, directions: int, dtype: str
    ) -> None:
        # float64 whatever the dtype: the same draws as on the CPU
        self._options: dict[str, Any] = {"bias": bias, "directions": directions, "dtype": np.dtype(np.float64)}
        self._cell = cell
        self._sizes = sizes
        host = self._on_host()
        self.named, self._views = host.named, host.views
        self.arrays = arrays
        self.dtype = dtype
        self.number = directions
        self.flat = arrays.zeros(host.flat.shape, dtype)
        self.directions = self.views(self.flat)
        self._seen = {arrays.name: self.directions}

    def _on_host(self) -> LayerParameters:
        return LayerParameters(self._cell, *self._sizes, **self._options)

    def initialise(self, generator: np.random.Generator) -> None:
        """As `LayerParameters.initialise`."""
        host = self._on_host()
        host.initialise(generator)
        self.set(host.flat)

    def get(self) -> np.ndarray:
        """A NumPy copy of all parameters; bfloat16 as float32."""
        wait_for_device()  # whoever writes them, on whatever stream
        return self.arrays.to_host(self.flat)

    def set(self, values: np.ndarray) -> None:
        """Copy a flat NumPy array into all parameters."""
        wait_for_device()  # calls on whatever stream may still read them
        self.flat[...] = self.arrays.from_host_as(values, self.dtype)
        wait_for_device()  # and later ones find them written

    def views(self, flat: Array) -> list[dict[str, Array]]:
        """As `LayerParameters.views`; without biases if there are none."""
        return list(map(present, self._views(flat)))

    def seen_by(self, arrays: Arrays) -> list[dict[str, Array]]:
        """The same memory as arrays of another library."""
        if arrays.name not in self._seen:
            self._seen[arrays.name] = self.views(arrays.shared(self.flat))
        return self._seen[arrays.name]
