import os
from pathlib import Path

import pytest

from distcc.state import FORMAT, MAGIC, PHASES, Task, parse_task, tasks


def state(host: str, file: str, slot: int, phase: int, magic: int = MAGIC) -> bytes:
    return FORMAT.pack(
        FORMAT.size, magic, 4711, file.encode() + b"\0junk", host.encode(), slot, phase, 99
    )


def test_a_state_file_tells_host_slot_file_and_phase() -> None:
    assert parse_task(state("blade01", "a.c", 1, 5)) == Task(
        host="blade01", slot=1, file="a.c", phase="compiling"
    )


def test_a_name_that_fills_its_field_is_read_whole() -> None:
    task = parse_task(state("h" * 128, "a.c", 0, 3))
    assert task is not None
    assert task.host == "h" * 128


@pytest.mark.parametrize(
    "content",
    [
        b"",
        state("h", "a.c", 0, 5)[:-1],
        state("h", "a.c", 0, len(PHASES)),  # it is done
        state("h", "a.c", 0, -1),
        state("h", "a.c", 0, 5, magic=1),
        FORMAT.pack(FORMAT.size - 8, MAGIC, 1, b"a.c", b"h", 0, 5, 0),
    ],
)
def test_what_is_half_written_done_or_of_another_version_is_no_task(content: bytes) -> None:
    assert parse_task(content) is None


def test_tasks_are_in_the_order_of_hosts_and_what_was_killed_long_ago_is_left_out(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "binstate_1").write_bytes(state("blade02", "b.c", 0, 5))
    (folder / "binstate_2").write_bytes(state("blade01", "c.c", 1, 3))
    (folder / "binstate_3").write_bytes(state("blade01", "a.c", 0, 5))
    (folder / "binstate_4").write_bytes(state("blade03", "old.c", 0, 5))
    (folder / "lock").write_bytes(b"")
    os.utime(folder / "binstate_4", (1000, 1000))
    assert [task.file for task in tasks(tmp_path, since=2000)] == ["a.c", "c.c", "b.c"]
    assert tasks(tmp_path / "none", since=0) == []
