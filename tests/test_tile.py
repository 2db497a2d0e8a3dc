"""The shapes of tiles, for any number of vector registers: that what they hold has room, and no sum is left out."""

import pytest
from fastrnn.kernels import tile
from fastrnn.kernels.target import VectorUnit


@pytest.fixture(params=[VectorUnit(512, 32), VectorUnit(256, 16), VectorUnit(128, 32), VectorUnit(128, 16)], ids=str)
def unit(request, monkeypatch):
    monkeypatch.setattr(tile, "vector_unit", lambda: request.param)
    return request.param


@pytest.mark.parametrize("sums", [1, 2, 3, 4])
def test_tiles_take_all_sums_of_a_unit_in_equal_parts(unit, sums):
    assert sums % tile.abreast(sums) == 0
    assert tile.abreast(tile.abreast(sums)) == tile.abreast(sums)


@pytest.mark.parametrize("sums", [1, 2, 3, 4])
def test_accumulators_and_what_is_multiplied_have_registers(unit, sums):
    each = tile.abreast(sums)
    shapes = tile.shapes(each)
    assert {rows for rows, _ in shapes} == set(range(1, tile.tallest(each) + 1))
    for rows, groups in shapes:
        vectors = groups * each
        # a row of what is packed, or, for a single row that multiplies it from memory, a vector of it at a time
        assert rows * vectors + (vectors if rows > 1 else 1) + 1 <= unit.registers


@pytest.mark.parametrize("sums", [1, 2, 3, 4])
def test_tall_tiles_have_chains_enough_to_hide_the_latency(unit, sums):
    each = tile.abreast(sums)
    tall = tile.tallest(each)
    assert tall * tile.widest(each, tall) * each >= 12  # two multiply-adds a cycle that take four or five


@pytest.mark.parametrize("sums", [1, 2, 3, 4])
def test_groups_of_all_widths_up_to_the_widest_have_a_tile(unit, sums):
    each = tile.abreast(sums)
    for rows in range(1, tile.tallest(each) + 1):
        widest = tile.widest(each, rows)
        assert [groups for r, groups in tile.shapes(each) if r == rows] == [1 << n for n in range(widest.bit_length())]
