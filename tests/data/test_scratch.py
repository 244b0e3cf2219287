"""The scratch file: what is written comes back, and room that is given back is used again."""

from __future__ import annotations

import multiprocessing
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostify.data import scratch
from ghostify.data.scratch import CHUNK, Bytes, Scratch


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Scratch:
    made = Scratch()
    monkeypatch.setattr(scratch, "shared_scratch", lambda: made)
    return made


def read(kept: Bytes, start: int, count: int) -> bytes:
    found = bytearray(count)
    kept.read(start, memoryview(found))
    return bytes(found)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2 * CHUNK + 3)), max_size=6), st.data())
def test_bytes_of_several_come_back_from_any_place(
    writes: list[tuple[int, int]], data: st.DataObject
) -> None:
    kept, wanted = [Bytes() for _ in range(3)], [b""] * 3
    for number, (which, size) in enumerate(writes):
        some = bytes([number + 1, which]) * (size // 2)
        kept[which].append(memoryview(some))
        wanted[which] += some
    for one, whole in zip(kept, wanted, strict=True):
        assert len(one) == len(whole)
        start = data.draw(st.integers(0, len(whole)))
        assert read(one, start, len(whole) - start) == whole[start:]


def test_room_that_is_given_back_is_used_again(own: Scratch) -> None:
    first, beside = Bytes(), Bytes()
    first.append(memoryview(bytes(3 * CHUNK)))
    beside.append(memoryview(b"kept"))
    size = os.fstat(own._file.fileno()).st_size
    del first
    second = Bytes()
    second.append(memoryview(b"x" * (3 * CHUNK)))
    assert os.fstat(own._file.fileno()).st_size == size
    assert read(beside, 0, 4) == b"kept" and read(second, 3 * CHUNK - 1, 1) == b"x"


def test_the_file_goes_with_the_last_of_them(own: Scratch) -> None:
    one, other = Bytes(), Bytes()
    one.append(memoryview(b"a"))
    other.append(memoryview(b"b"))
    file = own._file
    del one
    assert not file.closed
    del other
    assert file.closed and own._file is None


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_after_a_fork_the_other_process_writes_elsewhere() -> None:
    mine = Bytes()
    mine.append(memoryview(b"mine"))
    child = os.fork()
    if not child:
        for _ in range(3):
            Bytes().append(memoryview(b"theirs"))
        del mine
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert read(mine, 0, 4) == b"mine"
