"""How Numba's CUDA simulator runs blocks in these tests: all those of a launch side by side, each with shared memory of
its own, and their threads, which are Python's, asleep while they wait for each other.

By itself it runs one block after the other, and asks each thread over and over whether it waits; blocks that wait for
each other would never end, and threads that ask take the interpreter from those that work.
"""

import math
import threading
import typing

import numpy as np
from numba.cuda.simulator import kernel as simulator
from numba.cuda.simulator import kernelapi

_SHARED_MEMORY = kernelapi.FakeCUDAShared
_HUNG = 300  # seconds, after which a test ends whatever went wrong


class _Thread(simulator.BlockThread):
    def run(self):
        super().run()
        if self.exception:
            self._manager.meeting.abort()

    def syncthreads(self):
        self._manager.meeting.wait()


class _Block(simulator.BlockManager):
    started: typing.ClassVar = []

    def run(self, grid_point, *args):
        points = list(np.ndindex(*self._block_dim))
        self.meeting = threading.Barrier(len(points), timeout=_HUNG)
        self.threads = [_Thread(lambda: self._f(*args), self, grid_point, point, self._debug) for point in points]
        self.started.append(self)
        for thread in self.threads:
            thread.start()
        if len(self.started) == math.prod(self._grid_dim):
            threads = [thread for block in self.started for thread in block.threads]
            self.started.clear()
            for thread in threads:
                thread.join()
            raised = [thread.exception for thread in threads if thread.exception]
            # those that only waited for one that raised come last
            for error, traceback in sorted(raised, key=lambda each: isinstance(each[0], threading.BrokenBarrierError)):
                raise error.with_traceback(traceback)


class _SharedMemory(_SHARED_MEMORY):
    def __init__(self, size):
        super().__init__(size)
        self._of_blocks = {}

    def array(self, shape, dtype, alignment=None):
        block = threading.current_thread().blockIdx.x
        one = self._of_blocks.setdefault(block, _SHARED_MEMORY(self._dynshared_size))
        return one.array(shape, dtype)


def install():
    """For the rest of the process."""
    simulator.BlockManager = _Block
    kernelapi.FakeCUDAShared = _SharedMemory
