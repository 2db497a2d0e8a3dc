"""Packing and unpacking on the kernels, against loops in Python over single rows."""

import numpy as np
import pytest
from conftest import DTYPES, assert_same_bits
from test_kernels import GuardedMemory, poisoned

from fastrnn import copying
from fastrnn.lengths import PackedRows, Padded

# lengths, T, and n: no rows, one, many of odd widths, some empty, all equal, none to the end
BATCHES = {
    "all_empty": ([0, 0, 0], 4, 5),
    "no_steps": ([0], 0, 3),
    "one_number": ([1], 1, 1),
    "one_row": ([3], 7, 2),
    "in_no_order": ([4, 9, 0, 1, 9, 7, 2], 9, 19),
    "all_whole": ([6] * 5, 6, 33),
    "none_to_the_end": ([2, 3, 3, 0, 1], 11, 16),
    "many": (np.random.default_rng(0).integers(0, 41, 37).tolist(), 40, 67),
}
every_batch = pytest.mark.parametrize("batch", BATCHES)
every_number = pytest.mark.parametrize("number", [1, 2, 3])
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


@pytest.fixture(autouse=True)
def number_of_threads(request, threads, monkeypatch):
    """So many share the rows, however few they are."""
    monkeypatch.setattr(copying, "_ENOUGH_TO_SHARE", 0)
    threads(request.getfixturevalue("number") if "number" in request.fixturenames else 1)


def random_rows(*shape, dtype):
    """Any bits, NaN among them."""
    bits = np.random.default_rng(1).integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8)
    return bits.view(dtype)[..., 0] if bits.size else np.empty(shape, dtype)


def packed_order(lengths):
    """(step, row of the caller's batch) of each row of the packed batch."""
    longest_first = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return [(step, row) for step in range(max(lengths)) for row in longest_first if lengths[row] > step]


def in_guarded_memory(monkeypatch, function, *arguments):
    """The result of a function whose new arrays are all NaN at first, and in which it writes to no others."""
    memory = GuardedMemory()
    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", poisoned(memory.empty))
        result = function(*arguments)
    assert memory.zones
    assert memory.untouched()
    return result


@every_number
@every_dtype
@every_batch
def test_sequences_are_packed(batch, dtype, number, monkeypatch):
    lengths, T, n = BATCHES[batch]
    sequence = random_rows(T, len(lengths), n, dtype=dtype)
    padded = Padded(np.array(lengths), T)
    expected = np.array([sequence[place] for place in packed_order(lengths)], dtype).reshape(-1, n)
    packed = in_guarded_memory(monkeypatch, copying.pack, padded, sequence)
    assert_same_bits({"kernel": packed, "numpy": padded.pack(sequence)}, {"kernel": expected, "numpy": expected})


@every_number
@every_dtype
@every_batch
def test_sequences_are_unpacked_with_zeros_behind_their_ends(batch, dtype, number, monkeypatch):
    lengths, T, n = BATCHES[batch]
    rows = random_rows(sum(lengths), n, dtype=dtype)
    padded = Padded(np.array(lengths), T)
    expected = np.zeros((T, len(lengths), n), dtype)
    for place, row in zip(packed_order(lengths), rows, strict=True):
        expected[place] = row
    found = in_guarded_memory(monkeypatch, copying.unpack, padded, rows)
    assert_same_bits({"kernel": found, "numpy": padded.unpack(rows)}, {"kernel": expected, "numpy": expected})


@every_number
@every_dtype
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("directions", [1, 2])
@every_batch
def test_the_states_before_each_step_are_found(batch, directions, reverse, dtype, number):
    """Among those after each step, which lie beside another direction's, or the initial ones."""
    lengths, T, n = BATCHES[batch]
    padded = Padded(np.array(lengths), T)
    initial = random_rows(len(lengths), n, dtype=dtype)
    both = random_rows(sum(lengths), directions * n, dtype=dtype)
    states = both[:, reverse * (directions - 1) * n :][:, :n]
    places = {place: number for number, place in enumerate(packed_order(lengths))}
    expected = np.empty_like(states, order="C")
    for (step, row), number_of_row in places.items():
        before = places.get((step + (1 if reverse else -1), row))
        expected[number_of_row] = initial[padded.rank[row]] if before is None else states[before]
    out = np.full((sum(lengths) + 2, n), 7, dtype)
    copying.states_before(padded.rows, initial, states, reverse, out[1:-1])
    assert_same_bits({"before": out[1:-1]}, {"before": expected})
    assert (out[[0, -1]] == 7).all()


def test_a_batch_of_one_row_may_have_any_stride():
    """NumPy calls an array contiguous whatever its strides are along dimensions of length 1."""
    x = random_rows(5, 3, dtype="float32")
    padded = Padded(np.array([4]), 5)
    assert x[:, None].strides[1] == 0
    assert_same_bits({"x": copying.pack(padded, x[:, None])}, {"x": x[:4]})


def test_sources_may_be_read_only():
    lengths = np.array([2, 1])
    x = random_rows(2, 2, 3, dtype="float32")
    x.flags.writeable = False
    padded = Padded(lengths, 2)
    assert_same_bits({"x": copying.pack(padded, x)}, {"x": padded.pack(x)})


def test_a_packed_batch_made_of_sizes_is_the_one_made_of_lengths():
    lengths = np.array(BATCHES["many"][0])
    packed = Padded(lengths, 40).rows
    again = PackedRows(packed.batch_sizes, len(lengths))
    np.testing.assert_array_equal(again.lengths, packed.lengths)
    np.testing.assert_array_equal(again.starts, packed.starts)
