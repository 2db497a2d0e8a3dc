"""What decides how work is done: how many processors this process may use, and how large their caches are."""

import math
import os
import re
from functools import cache
from pathlib import Path

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_USUAL = 1 << 20
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20}

_GROUPS_OF_THIS_PROCESS = Path("/proc/self/cgroup")
_CONTROL_GROUPS = Path("/sys/fs/cgroup")


def processors() -> int:
    """How many this process may run on, and no more than its container may use the time of.

    Which ones it may run on can change at any time; what its container may use is looked up once.
    """
    number = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(number, _granted())


@cache
def _granted() -> int:
    quota = processor_quota()
    return 1 << 30 if quota is None else max(1, math.ceil(quota))


def processor_quota(groups: Path = _GROUPS_OF_THIS_PROCESS, root: Path = _CONTROL_GROUPS) -> float | None:
    """Processors whose time Linux grants to this process's control group, or to one around it; None without a limit.

    Threads beyond it would be stopped for the rest of each period while others wait for them. Source: the kernel's
    documentation of control groups, `cpu.max` (version 2), `cpu.cfs_quota_us` and `cpu.cfs_period_us` (version 1).
    """
    try:
        lines = os.fsdecode(groups.read_bytes()).splitlines()
    except OSError:  # not Linux
        return None
    quotas = []
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / controllers
        own = top / path.strip("/")  # within a container it may not be there, and the top be the container's own
        quotas += [_quota_of(group) for group in {top, own, *own.parents} if group.is_relative_to(top)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_of(group: Path) -> float | None:
    try:
        if (group / "cpu.max").exists():
            quota, period = map(float, (group / "cpu.max").read_text().split())
        else:
            quota, period = (float((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    except (OSError, ValueError):  # there is none, or it says "max"
        return None
    return quota / period if quota > 0 < period else None  # -1: without a limit


def second_level_cache(folder: Path = _CACHES) -> int:
    """Bytes of a core's second-level cache, from Linux's description of it; 1 MiB where there is none."""
    for each in sorted(folder.glob("index*")):
        try:
            level, kind, size = ((each / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        found = re.fullmatch(r"(\d+)([KM]?)", size)
        if level == "2" and kind != "Instruction" and found:
            return int(found[1]) * _UNITS[found[2]]
    return _USUAL
