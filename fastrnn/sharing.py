"""How many threads a call uses, and what they divide: rules with measured constants."""

from collections.abc import Callable

from .parameters import ParameterLayout
from .processor import second_level_cache

# multiply-adds of a call that pay for waking a second thread, and of a step that pay for meeting it
_ENOUGH_FOR_CALL = 1 << 19
_ENOUGH_FOR_STEP = 1 << 16
# threads divide the units of a step if each would have fewer rows than that; or no more than the second number where
# the weights outgrow a core's cache: so few rows do not pay for reading all of them
_FEW_ROWS, _FEW_ROWS_OF_LARGE = 4, 16
# or, forwards, no more than so many where the weights are more than that part of what the cache keeps; backwards a step
# reads only R. Measured: LSTM, GRU and RNN, H from 64 to 512, B from 8 to 48, two threads
_FEW_ROWS_FORWARD, _LARGE_FORWARD = 12, 0.6
_GROUPS_EACH = 4  # of units, that each thread should get at least, or their shares are uneven

KEPT_BY_A_CORE = second_level_cache()  # bytes of weights


class Sharing:
    """The rules for one layer.

    lanes      units of a group
    available  says how many threads a call may use
    """

    def __init__(self, layout: ParameterLayout, itemsize: int, lanes: int, available: Callable[[], int]) -> None:
        self.layout = layout
        self._lanes = lanes
        self._available = available
        available()  # a wrong setting is an error at the first call, not at the first large one
        # multiply-adds of a row at a step, and numbers of the weights, but for those of a projection
        self._products = layout.cell.gates * layout.hidden_size * (layout.input_size + layout.output_size)
        self._bytes = self._products * itemsize

    def share(self, rows: int, batch: int, *, forward: bool, packed_rows: bool = False) -> tuple[int, bool]:
        """How many threads a call of so many rows, of all steps, uses, and whether they share each step by hidden
        units (else by the batch's rows).

        packed_rows  whether it is a batch of sequences of different lengths
        """
        D = self.layout.num_directions
        if rows * self._products * D < _ENOUGH_FOR_CALL:
            return 1, False
        number = self._available()
        if number == 1:
            return 1, False
        team = number // D
        if team > 1 and self._few_rows(batch, team, forward):
            if batch * self._products >= _ENOUGH_FOR_STEP:
                return team * D, True
            team = 1
        # as sequences end, few rows are left to each thread; backwards that did not pay
        return team * D, packed_rows and forward and team > 1 and self._large(team)

    def rows_for_sums_within(self, parts: int) -> int:
        """From how many rows on a step's sums W x are best made together with R h; `parts` threads divide the weights.

        That saves writing and reading the sums, but then W is read at each step: it pays for few rows only where a core
        keeps both matrices. Measured (LSTM, GRU and RNN, H from 32 to 512, B from 1 to 64).
        """
        part = self._bytes / parts
        return 4 if part <= 0.6 * KEPT_BY_A_CORE else 16 if part <= KEPT_BY_A_CORE else 24

    def _few_rows(self, batch: int, team: int, forward: bool) -> bool:
        """Whether a batch has so few rows that dividing them would leave each thread too little."""
        return (
            batch < _FEW_ROWS * team
            or (batch <= _FEW_ROWS_OF_LARGE * team and self._large(team))
            or (forward and batch <= _FEW_ROWS_FORWARD * team and self._large(team, _LARGE_FORWARD))
        )

    def _large(self, team: int, part: float = 1.0) -> bool:
        """Whether the weights outgrow that part of a core's cache, and the units are enough for so many threads."""
        enough = self.layout.hidden_size >= _GROUPS_EACH * self._lanes * team
        return enough and self._bytes > part * KEPT_BY_A_CORE
