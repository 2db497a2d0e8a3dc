"""What a report says of the machine, and of the code that ran on it."""

import os
import platform
import subprocess
from pathlib import Path


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def memory() -> int | None:
    """Bytes of it in all; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not Unix
        return None


def commit() -> str | None:
    """Of the checkout that this package is run from, with "-dirty" if files differ from it; None if it is from none."""
    here = Path(__file__).parent
    try:
        # another repository may be around an installed package
        for command in (["ls-files", "--error-unmatch", Path(__file__).name], ["describe", "--always", "--dirty"]):
            done = subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
