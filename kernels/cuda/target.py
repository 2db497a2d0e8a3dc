"""Where the kernels run: on a GPU, or in Numba's simulator (NUMBA_ENABLE_CUDASIM=1, read when Numba is imported)."""

from numba.core import config

SIMULATED = bool(config.ENABLE_CUDASIM)

if SIMULATED:
    from . import simulated as barrier
    from . import simulated as machine
    from . import simulated as patch
else:
    from . import barrier, patch  # type: ignore[no-redef]
    from . import memory as machine  # type: ignore[no-redef]

device = machine.device
kernel = machine.kernel
real = machine.real
plain = machine.plain
loader = machine.loader
storer = machine.storer
exchange_loader = machine.exchange_loader
exchange_storer = machine.exchange_storer
load_word = machine.load_word
store_word = machine.store_word
zero = machine.zero
from_plain = machine.from_plain
to_plain = machine.to_plain

patch_loader = patch.patch_loader
zeros = patch.zeros
multiplier = patch.multiplier
column_multiplier = patch.column_multiplier
spreader = patch.spreader
gatherer = patch.gatherer

arrive = barrier.arrive
arrived = barrier.arrived
prefetch = barrier.prefetch
