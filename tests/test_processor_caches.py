"""What the system says of its caches."""

import pytest

from fastrnn.processor_caches import second_level_cache

MIB = 1 << 20


def described(folder, *caches):
    for number, files in enumerate(caches):
        (folder / f"index{number}").mkdir()
        for name, text in zip(("level", "type", "size"), files, strict=False):
            (folder / f"index{number}" / name).write_text(text + "\n")
    return folder


@pytest.mark.parametrize(
    ("size", "expected"), [("2048K", 2 * MIB), ("512K", MIB // 2), ("4M", 4 * MIB), ("262144", MIB // 4)]
)
def test_the_second_level_is_found_among_others(tmp_path, size, expected):
    caches = [("1", "Data", "48K"), ("2", "Instruction", "32K"), ("2", "Unified", size), ("3", "Unified", "8192K")]
    assert second_level_cache(described(tmp_path, *caches)) == expected


@pytest.mark.parametrize("caches", [[], [("1", "Data", "48K")], [("2", "Unified")], [("2", "Unified", "much")]])
def test_a_usual_size_stands_in_for_what_is_not_said(tmp_path, caches):
    assert second_level_cache(described(tmp_path, *caches)) == MIB


def test_this_machine_has_one():
    assert 1 << 15 <= second_level_cache() <= 1 << 28
