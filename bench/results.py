"""Results of one run as a JSON file, `bench/results/NAME.json`.

    {
      "schema": 1,
      "name": NAME,
      "machine": {"cpu", "microarchitecture", "cores", "vector", "vector_bits", "system",
                  "load_average": of the minute before the run},
      "software": {"python": version, "fastrnn": …, "torch": version or null where it is not installed, …},
      "source": {"commit": hash or null, "modified": whether the timed code differs from it, or null},
      "date": "YYYY-MM-DD HH:MM UTC" of the start,
      "environment": {variable: value} of those set that steer threads or code generation,
      "settings": {"seconds_per_case": …, "took": seconds for all, in newer files},
      "limits": {"multiply_add": {dtype: {threads: FLOP/s}},
                 "bandwidth": {threads: [[bytes each thread reads over and over, B/s of all threads], …]}},
      "absent": {competitor: why it could not be imported},
      "measurements": [
        {"case": {"cell", "mode", "threads", "T", "B", "I", "H", "dtype"},
         "timings": {competitor: {"median", "p10", "p90": seconds for one call, "rounds", "repetitions",
                                  "samples": seconds for one call in each round, in newer files}},
         "refused": {competitor: what was wrong with its results}}
      ]
    }

A competitor in neither `timings` nor `refused` cannot do that case.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.cases import Case
from bench.competitors import COMPETITORS, OURS
from bench.roofline import Limits
from bench.timing import Timing
from fastrnn.files import new_file

SCHEMA = 1
FOLDER = Path(__file__).resolve().parent / "results"


@dataclass
class Measurement:
    """What one case gave."""

    case: Case
    timings: dict[str, Timing]
    refused: dict[str, str] = field(default_factory=dict)


@dataclass
class Results:
    """One run. The fields are those of the file."""

    name: str
    machine: dict
    software: dict
    source: dict
    date: str
    environment: dict
    settings: dict
    limits: Limits
    absent: dict[str, str]
    measurements: list[Measurement] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        """Whether any competitor gave wrong results anywhere."""
        return any(measurement.refused for measurement in self.measurements)

    @property
    def peers(self) -> list[str]:
        """Those that took part at some point, in their order everywhere."""
        there = {name for m in self.measurements for name in (*m.timings, *m.refused)}
        return [name for name in COMPETITORS if name in there and name != OURS]

    @property
    def by_round(self) -> bool:
        """Whether it is known what each round gave."""
        return all(timed.samples for m in self.measurements for timed in m.timings.values())

    def save(self, folder: Path) -> Path:
        """Write the file."""
        return write({"schema": SCHEMA} | asdict(self), folder / f"{self.name}.json")


def write(data: dict, path: Path) -> Path:
    """Write a results file in one step, so that a run that is interrupted leaves a whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as file:
        file.write((_on_one_line(json.dumps(data, indent=1)) + "\n").encode())
    return path


def _on_one_line(text: str) -> str:
    """The same JSON, each list of nothing but numbers on one line."""
    return re.sub(r"\[[-+.\deE,\s]*\]", lambda found: " ".join(found[0].split()), text)


def names(folder: Path) -> list[str]:
    """Those of the files there that hold a run of the grid; others have sections, or what else was measured."""
    return sorted(
        path.stem for path in folder.glob("*.json") if "measurements" in json.loads(path.read_text(encoding="utf-8"))
    )


def load(path: Path) -> Results:
    """Read a results file."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if data.pop("schema") != SCHEMA:
        raise ValueError(f"{path}: not written in schema {SCHEMA}")
    limits, measurements = data.pop("limits"), data.pop("measurements")
    return Results(
        **data,
        limits=Limits(
            multiply_add={
                d: {int(n): rate for n, rate in peaks.items()} for d, peaks in limits["multiply_add"].items()
            },
            bandwidth={int(n): [(size, rate) for size, rate in curve] for n, curve in limits["bandwidth"].items()},
        ),
        measurements=[
            Measurement(
                Case(**entry["case"]),
                {name: Timing(**timing) for name, timing in entry["timings"].items()},
                entry["refused"],
            )
            for entry in measurements
        ],
    )
