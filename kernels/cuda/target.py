"""Where the kernels run: on a GPU, or in Numba's simulator (NUMBA_ENABLE_CUDASIM=1, read when Numba is imported)."""

from numba.core import config

SIMULATED = bool(config.ENABLE_CUDASIM)

if SIMULATED:
    from . import simulated as machine
else:
    from . import memory as machine  # type: ignore[no-redef]

device = machine.device
kernel = machine.kernel
real = machine.real
loader = machine.loader
storer = machine.storer
exchange_loader = machine.exchange_loader
exchange_storer = machine.exchange_storer
load_word = machine.load_word
zero = machine.zero
from_plain = machine.from_plain
to_plain = machine.to_plain
fma = machine.fma
