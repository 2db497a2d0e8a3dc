"""What a comparison's results depend on."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from .tasks import Adding, Copying, Parity, Task

TASKS = ("adding", "copying", "parity", "text")


@dataclass(frozen=True)
class Training:
    """How long and with what a model learns."""

    batch: int
    updates: int
    learning_rate: float  # at its peak


@dataclass(frozen=True)
class Settings:
    """Everything that a run's result depends on, beside its task, contender and seed."""

    hidden: int  # of each layer; with equal_parameters, of the LSTM's
    equal_parameters: bool  # the others get the hidden size that comes nearest to the LSTM model's parameters
    length: int  # of the adding problem
    delay: int  # of copying memory
    parity_length: int
    text_steps: int  # characters that a gradient goes back
    probe_steps: int  # over which gradients are followed in the text task
    scaling_steps: int  # over which gradients are followed through the scaled matrices
    training: Mapping[str, Training]  # of each task

    @property
    def size(self) -> str:
        """Of the contenders, in words."""
        if self.equal_parameters:
            return f"As many parameters as an LSTM of {self.hidden} units"
        return f"{self.hidden} units each"

    def task(self, name: str) -> Task:
        """The made-up task of that name."""
        tasks: dict[str, Task] = {
            "adding": Adding(self.length), "copying": Copying(self.delay), "parity": Parity(self.parity_length)
        }  # fmt: skip
        return tasks[name]

    def changed(self, **training: Any) -> "Settings":
        """The same with these fields of every task's training."""
        return replace(self, training={name: replace(each, **training) for name, each in self.training.items()})


DEFAULT = Settings(
    hidden=64,
    equal_parameters=False,
    length=100,
    delay=20,
    parity_length=50,
    text_steps=64,
    probe_steps=100,
    scaling_steps=100,
    training={
        "adding": Training(batch=32, updates=5000, learning_rate=5e-3),
        "copying": Training(batch=32, updates=6000, learning_rate=5e-3),
        "parity": Training(batch=32, updates=2000, learning_rate=5e-3),
        "text": Training(batch=32, updates=2000, learning_rate=5e-3),
    },
)

QUICK = replace(
    DEFAULT,
    length=50,
    delay=10,
    parity_length=30,
    training={
        "adding": Training(batch=32, updates=2500, learning_rate=5e-3),
        "copying": Training(batch=32, updates=2500, learning_rate=5e-3),
        "parity": Training(batch=32, updates=1000, learning_rate=5e-3),
        "text": Training(batch=32, updates=800, learning_rate=5e-3),
    },
)


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What two settings, as mappings, differ in: lines "length: 50 there, 100 here"."""
    one, other = dict(_flat(there)), dict(_flat(here))
    names = [*one, *(name for name in other if name not in one)]
    return [
        f"{name}: {one.get(name, 'nothing')} there, {other.get(name, 'nothing')} here"
        for name in names
        if one.get(name) != other.get(name)
    ]


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", value


def as_mapping(settings: Settings) -> dict[str, Any]:
    """For JSON."""
    return asdict(settings)


def from_mapping(mapping: Mapping[str, Any]) -> Settings:
    """The inverse of `as_mapping`. TypeError if the names are not those of the fields."""
    training = {name: Training(**each) for name, each in mapping["training"].items()}
    return Settings(**{**mapping, "training": training})
