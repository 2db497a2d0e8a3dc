"""What the system says of its processors and their caches."""

from pathlib import Path

import pytest

from fastrnn import processor
from fastrnn.processor import processor_quota, second_level_cache

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
    folder = Path("/sys/devices/system/cpu/cpu0/cache")
    sizes = [path.read_text() for path in folder.glob("index*/size") if (path.parent / "level").read_text() == "2\n"]
    if not sizes:
        pytest.skip("the system does not say")
    assert f"{second_level_cache() >> 10}K\n" in sizes


# control group of the process, {file: text} below the root, processors
QUOTAS = {
    "version 2, a container's top": ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
    "version 2, of a parent": (
        "0::/a/b\n",
        {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "max 100000\n", "other/cpu.max": "1000 100000"},
        2.0,
    ),
    "version 2, a path that is the host's": ("0::/host/pod\n", {"cpu.max": "50000 100000\n"}, 0.5),
    "version 2, the least of several": (
        "0::/a/b\n",
        {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "100000 100000\n"},
        1.0,
    ),
    "version 1": (
        "3:memory:/x\n2:cpu,cpuacct:/x\n1:name=cpu:/x\n",
        {"cpu,cpuacct/x/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"},
        3.0,
    ),
    "version 1, without a limit": (
        "1:cpu:/\n0::/\n",
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        None,
    ),
    "none said": ("0::/\n", {}, None),
    "damaged": ("0::/\n", {"cpu.max": "much\n"}, None),
    "another kind of file": ("nothing\n\n", {}, None),
}


@pytest.mark.parametrize(("groups", "files", "expected"), QUOTAS.values(), ids=QUOTAS)
def test_a_containers_share_of_the_processors_is_found(tmp_path, groups, files, expected):
    (tmp_path / "cgroup").write_text(groups)
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text)
    assert processor_quota(tmp_path / "cgroup", tmp_path / "root") == expected


def test_where_there_are_no_control_groups_there_is_no_limit(tmp_path):
    assert processor_quota(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize(("quota", "number"), [(None, 4), (8.0, 4), (2.5, 3), (0.5, 1)])
def test_no_more_processors_are_counted_than_a_container_may_use_the_time_of(quota, number, monkeypatch):
    monkeypatch.setattr(processor, "processor_quota", lambda: quota)
    monkeypatch.setattr(processor.os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    processor._granted.cache_clear()
    try:
        assert processor.processors() == number
    finally:
        processor._granted.cache_clear()
