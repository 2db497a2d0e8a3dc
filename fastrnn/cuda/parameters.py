"""The parameters of one layer in a GPU's memory."""

from __future__ import annotations

import numpy as np

from fastrnn.kernels.cuda.launch import wait_for_device
from fastrnn.parameters import ParameterLayout

from .arrays import Array, Arrays


class DeviceParameters:
    """As `LayerParameters`, in one flat array on the device.

    `arrays` holds the memory; other libraries see it through DLPack (`seen_by`).
    """

    def __init__(self, layout: ParameterLayout, arrays: Arrays, dtype: str) -> None:
        self.layout = layout
        self.arrays = arrays
        self.dtype = dtype
        self.flat = arrays.zeros((layout.size,), dtype)
        self.directions = layout.views(self.flat)
        self._seen = {arrays.name: self.directions}

    def get(self) -> np.ndarray:
        """A NumPy copy of all parameters; bfloat16 as float32."""
        wait_for_device()  # whoever writes them, on whatever stream
        return self.arrays.to_host(self.flat)

    def set(self, values: np.ndarray) -> None:
        """Copy a flat NumPy array into all parameters."""
        wait_for_device()  # calls on whatever stream may still read them
        self.flat[...] = self.arrays.from_host_as(values, self.dtype)
        wait_for_device()  # and later ones find them written

    def seen_by(self, arrays: Arrays) -> list[dict[str, Array]]:
        """The same memory as arrays of another library."""
        if arrays.name not in self._seen:
            self._seen[arrays.name] = self.layout.views(arrays.shared(self.flat))
        return self._seen[arrays.name]
