"""What is asked of Numba's driver: launches on a stream that some library owns, and what the device has."""

import warnings
from collections.abc import Sequence
from functools import lru_cache

from numba import cuda

from .plan import PATCHES, DeviceLimits, Patch, Plan
from .target import SIMULATED


@lru_cache(256)
def _configured(kernel, blocks, threads: int, stream: int, shared_bytes: int):
    with warnings.catch_warnings():
        # a small batch has few blocks, whatever Numba thinks of that
        warnings.filterwarnings("ignore", "Grid size .* low occupancy")
        return kernel[blocks, threads, cuda.external_stream(stream) if stream else 0, shared_bytes]


def launch(kernel, blocks, threads: int, stream: int, arguments: tuple[int, ...], shared_bytes: int = 0) -> None:
    """Launch on the stream at this address (0: the default one). The arguments are addresses and integers, int64."""
    if SIMULATED:  # where a configured kernel is the kernel itself, and knows one configuration at a time
        kernel[blocks, threads, 0, shared_bytes](*arguments)
    else:
        _configured(kernel, blocks, threads, stream, shared_bytes)(*arguments)


def new_stream() -> int:
    """The address of a new stream, which does not wait for the default one and is never destroyed."""
    from numba.cuda.cudadrv.driver import binding, driver

    return int(driver.cuStreamCreate(binding.CUstream_flags.CU_STREAM_NON_BLOCKING.value))


def wait_for_device() -> None:
    """Until all work on the current device is done, of every library and stream."""
    cuda.synchronize()


def current_device() -> int:
    """The number of the GPU that Numba launches on."""
    return 0 if SIMULATED else cuda.current_context().device.id


def as_numba_array(array):
    """An array with `__cuda_array_interface__` as Numba's own, in the same memory."""
    return cuda.as_cuda_array(array)


def device_limits() -> DeviceLimits:
    """Of the current device. The simulator runs one block."""
    if SIMULATED:
        return DeviceLimits(multiprocessors=1, shared_bytes=1 << 20, registers=1 << 16)
    device = cuda.get_current_device()
    return DeviceLimits(
        device.MULTIPROCESSOR_COUNT,
        device.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        device.MAX_REGISTERS_PER_MULTIPROCESSOR,
    )


def device_description() -> str:
    """The current device for people to read; nothing is decided by it."""
    if SIMULATED:
        return "simulated by Numba"
    device = cuda.get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else device.name
    capability = ".".join(map(str, device.compute_capability))
    return f"{name}, {device.MULTIPROCESSOR_COUNT} multiprocessors, compute capability {capability}"


def patches() -> Sequence[Patch]:
    """What persistent kernels may be compiled for; few threads for the simulator, where each is one of Python's."""
    return (Patch(16, 3, 2, 2),) if SIMULATED else PATCHES


def make_room(kernel, plan: Plan) -> None:
    """Let a persistent kernel have the plan's shared memory; RuntimeError if not all its blocks fit on the device.

    Plans of other sizes launch the same kernel, and may already have: it may have all that a block can get, so that
    none takes away what another was given.
    """
    if SIMULATED:
        return
    from numba.cuda import types
    from numba.cuda.cudadrv.driver import binding, driver

    signature = (types.int64, types.int64)
    kernel.compile(signature)
    compiled = kernel.overloads[signature]
    function = compiled.library.get_cufunc()
    attribute = binding.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    driver.cuKernelSetAttribute(attribute, device_limits().shared_bytes, function.handle, function.device.id)
    most = compiled.max_cooperative_grid_blocks(plan.patch.threads, plan.shared_bytes)
    if plan.blocks > most:
        raise RuntimeError(f"the persistent kernel needs {plan.blocks} blocks at once, and the GPU holds {most}")
