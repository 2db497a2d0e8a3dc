"""What a stage works in: that the sums of every cell's stages have room, for any number of vector registers."""

import pytest
from fastrnn.kernels import stage, tile
from fastrnn.kernels.cells import CELLS
from fastrnn.kernels.target import VectorUnit

SUMS = {(len(each.begins), len(each.gates)) for cell in CELLS.values() for each in cell.forward}
SUMS |= {(cell.gates, cell.gates) for cell in CELLS.values()} | {(1, 1)}  # W x; and all backward


@pytest.fixture(params=[VectorUnit(512, 32), VectorUnit(256, 16), VectorUnit(128, 32), VectorUnit(128, 16)], ids=str)
def unit(request, monkeypatch):
    for module in (stage, tile):
        monkeypatch.setattr(module, "vector_unit", lambda: request.param)
    return request.param


@pytest.mark.parametrize(("sums", "multiplied"), sorted(SUMS))
def test_the_sums_of_all_cells_have_room(unit, sums, multiplied):
    assert stage.recipe(1, 2, sums, multiplied, 4) == (1, 2, sums, multiplied, 4)


def test_sums_that_have_none_are_refused(unit, monkeypatch):
    monkeypatch.setattr(stage, "SCRATCH_BYTES", stage.SCRATCH_BYTES // 16)
    with pytest.raises(ValueError, match="multiplied: tiles of 4 of 4 sums need more than 1024 bytes"):
        stage.recipe(1, 2, 4, 4, 4)


def test_sums_that_tiles_take_in_parts_stand_in_a_row(monkeypatch):
    for module in (stage, tile):
        monkeypatch.setattr(module, "vector_unit", lambda: VectorUnit(256, 16))
    with pytest.raises(ValueError, match="tiles that take 2 of 4 sums need all 5 of them in a row"):
        stage.recipe(1, 2, 5, 4, 4)
