"""How large the processor's caches are, where that decides how work is done."""

import re
from pathlib import Path

_OF_THIS_MACHINE = Path("/sys/devices/system/cpu/cpu0/cache")
_USUAL = 1 << 20
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20}


def second_level_cache(folder: Path = _OF_THIS_MACHINE) -> int:
    """Bytes of a core's second-level cache, from Linux's description of it; 1 MiB where there is none."""
    for cache in sorted(folder.glob("index*")):
        try:
            level, kind, size = ((cache / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        found = re.fullmatch(r"(\d+)([KM]?)", size)
        if level == "2" and kind != "Instruction" and found:
            return int(found[1]) * _UNITS[found[2]]
    return _USUAL
