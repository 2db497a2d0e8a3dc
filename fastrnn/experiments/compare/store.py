"""The folder of a comparison: its settings, and a file for each job that is done.

settings.json      what the results depend on
jobs/NAME.json     one job's result, written when it is done
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from fastrnn.files import new_file

FORMAT = 1
DIGITS = 4  # significant, of the numbers in files


class Store:
    """Results in a folder, each written in one step: whatever interrupts, what is there is whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._jobs = folder / "jobs"

    @property
    def settings(self) -> dict[str, Any] | None:
        """The settings of what is in the folder; None where there are none yet.

        ValueError if the folder cannot be a comparison's.
        """
        path = self.folder / "settings.json"
        if not path.exists():
            if self.folder.exists() and any(self.folder.iterdir()):
                raise ValueError("it is neither empty nor a comparison's")
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"its format is {content['format']}, and this version's {FORMAT}")
            return dict(content["settings"])
        except (json.JSONDecodeError, TypeError, KeyError, UnicodeDecodeError) as error:
            raise ValueError("its settings.json is not a comparison's") from error

    def begin(self, settings: dict[str, Any]) -> None:
        """Make the folder, and note the settings. OSError if that cannot be done."""
        self._jobs.mkdir(parents=True, exist_ok=True)
        write(self.folder / "settings.json", {"format": FORMAT, "settings": settings})

    def load(self, name: str) -> dict[str, Any] | None:
        """A job's result, None if there is none, or no whole one."""
        try:
            found = json.loads((self._jobs / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def save(self, name: str, result: dict[str, Any]) -> None:
        """Keep a job's result."""
        write(self._jobs / f"{name}.json", result)


def write(path: Path, content: Any) -> None:
    """Write JSON in one step."""
    with new_file(path) as file:
        file.write((json.dumps(content, allow_nan=False, separators=(",", ":")) + "\n").encode())


def plain(value: Any) -> Any:
    """Arrays and numbers as JSON has them, rounded; None for what is not finite."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
    return value
