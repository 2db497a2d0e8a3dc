"""The layers on NVIDIA GPUs, behind device="cuda" (see docs/gpu.md).

The modules import `numba.cuda`, and so are imported only once a layer asks for a GPU and `requirements` finds all that
is needed for it.
"""

from typing import TYPE_CHECKING

from . import requirements

if TYPE_CHECKING:
    from fastrnn.layers import Recurrent

    from .network import DeviceNetwork


def make_network(owner: "Recurrent") -> "DeviceNetwork":
    """What does the work of the layer `owner`. RuntimeError, saying what is missing, where that cannot be."""
    requirements.check()
    from .network import DeviceNetwork

    return DeviceNetwork(owner)
