"""What the checksums of weights see, piece of memory by piece, and where arrays are."""

import numpy as np
import pytest
from fastrnn.kernels import checksum

from fastrnn.memory import address
from fastrnn.watching import Watched

# in 32-bit words: a checksum takes up to 256 at once, and what is left is followed by zeros
SIZES = [1, 2, 15, 16, 17, 31, 32, 33, 100, 255, 256, 257, 300, 512, 1000]
PAIR = 16  # products: words so far apart are joined before they are multiplied
KIND = {np.float32: np.uint32, np.float64: np.uint64}


@pytest.fixture(autouse=True, params=["rounds", "products"])
def _way(request, monkeypatch):
    """Both, where the processor can run both."""
    name = f"checksum {request.param}"
    if name != checksum.kernel_name():
        if request.param == "rounds":
            pytest.skip("the processor has no instructions for them")
        monkeypatch.setattr(checksum, "kernel_name", lambda: name)


def checksums(*arrays, threads=1):
    name, _, found = Watched(arrays).pieces(threads).checksums.partition(b":")
    assert name.decode() == checksum.kernel_name()
    return found


def normal(number, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(number).astype(dtype)


@pytest.mark.parametrize("number", SIZES)
def test_a_change_of_any_bit_shows(number):
    array = normal(number)
    words, before = array.view(np.uint32), checksums(array)
    for place in range(number):
        for bit in (0, 15, 17, 23, 30, 31):
            words[place] ^= np.uint32(1 << bit)
            assert checksums(array) != before, (place, bit)
            words[place] ^= np.uint32(1 << bit)
    assert checksums(array) == before


@pytest.mark.parametrize("number", SIZES)
def test_what_lies_around_a_piece_does_not_count(number):
    room = normal(number + 64)
    array = room[32 : 32 + number]
    before = checksums(array)
    room[:32] = room[32 + number :] = 7
    assert checksums(array) == before
    assert checksums(array.copy()) == before  # nor where it lies


def _negate(values):
    values *= -1


def _double(values):
    values *= 2


def _scale(values):
    values *= 1.001


def _add_the_least(values):
    values[...] = np.nextafter(values, np.inf)


def _set_to_one(values):
    values[...] = 1


def _set_to_zero(values):
    values[...] = 0


def _turn_round(values):
    values[...] = values[::-1].copy()


def _move_by_one(values):
    values[...] = np.roll(values, 1)


@pytest.mark.parametrize("dtype", KIND)
@pytest.mark.parametrize(
    "change",
    [_negate, _double, _scale, _add_the_least, _set_to_one, _set_to_zero, _turn_round, _move_by_one],
    ids=lambda change: change.__name__.strip("_"),
)
def test_the_same_change_of_many_neighbours_shows(change, dtype):
    before = normal(2048, dtype)
    for number in (2, 3, 4, 16, 17, 32, 64, 256, 512, 1024, 2048):
        for first in (0, 1, 16, 1024):
            after = before.copy()
            change(after[first : first + number])
            if first + number <= len(before):
                assert checksums(after) != checksums(before), (first, number)


@pytest.mark.parametrize("dtype", KIND)
@pytest.mark.parametrize("change", [_negate, _double, _set_to_one, _set_to_zero], ids=lambda c: c.__name__.strip("_"))
def test_the_same_change_of_two_shows_whatever_lies_between(change, dtype):
    before = normal(1100, dtype)
    expected = checksums(before)
    for first in (0, 5, 520):
        for distance in [*range(1, 70), 96, 127, 128, 129, 192, 255, 256, 257, 511, 512, 513]:
            after = before.copy()
            pair = after[[first, first + distance]]
            change(pair)
            after[[first, first + distance]] = pair
            assert checksums(after) != expected, (first, distance)


@pytest.mark.parametrize("dtype", KIND)
def test_numbers_that_change_places_show(dtype):
    before = normal(40_000, dtype)
    expected = checksums(before)
    for number in (1, 4, 16, 64, 1024, 8192):  # one, a vector, a row, the rows of a gate
        for distance in {number, 16 if number < 16 else number, 64 * number, 16384}:
            if number <= distance and distance + number + 3 <= len(before):
                for first in (0, 3):
                    after = before.copy()
                    after[first : first + number] = before[first + distance : first + distance + number]
                    after[first + distance : first + distance + number] = before[first : first + number]
                    assert checksums(after) != expected, (number, distance, first)


@pytest.mark.parametrize("dtype", KIND)
def test_one_constant_instead_of_another_shows(dtype):
    """All words change alike, also those that are joined before they are multiplied."""
    constants = [0, -0.0, 1, -1, 2, 0.5, 0.1, 0.01, 1 / 3, np.pi, 1e-30, np.inf, -np.inf, np.nan]
    for number in (PAIR * 2, 256, 8192):
        seen = {checksums(np.full(number, constant, dtype)) for constant in constants}
        assert len(seen) == len(constants)


def test_few_and_coarse_values_are_told_apart():
    """As quantised weights have them: few bits differ, and in few ways."""
    generator = np.random.default_rng(0)
    for values in (np.array([-1, 0, 1]), np.arange(-8, 8) / 8, np.arange(-128, 128) / 128):
        arrays = values[generator.integers(0, len(values), (5000, 32))].astype(np.float32)
        distinct = len(np.unique(arrays, axis=0))
        assert len({checksums(array) for array in arrays}) == distinct


@pytest.mark.parametrize("threads", [1, 2])
def test_large_arrays_are_taken_in_pieces_by_any_number_of_threads(threads):
    arrays = normal(200_000), normal(70_001, seed=1)
    before = checksums(*arrays)
    assert len(before) == 16 * 6  # 800,000 bytes are four pieces of 256 KiB, 280,004 bytes two
    assert checksums(*arrays, threads=threads) == before
    arrays[1][-1] += 1
    after = checksums(*arrays, threads=threads)
    assert [after[n : n + 16] != before[n : n + 16] for n in range(0, 96, 16)] == [False] * 5 + [True]


def test_addresses_are_those_that_numpy_gives():
    array = normal(24).reshape(2, 3, 4)
    read_only = array.copy()
    read_only.flags.writeable = False
    views = [array[1], array[:, 1], array[::-1], array.T, array[:0], array[1, 1, 1:2].reshape(()), array.view(np.int32)]
    for each in [array, read_only, *views, np.empty(0), np.zeros((3, 0, 2)), np.frombuffer(bytes(64), np.float64)]:
        assert address(each) == each.ctypes.data
