"""Writes behind the caller's back: all are done in the end, or the run is told why not."""

import threading

import pytest

from ad_assets.store.background import BackgroundWrites


def test_all_is_written_when_the_block_ends() -> None:
    written: list[int] = []
    with BackgroundWrites(3, 10) as writes:
        for number in range(50):
            writes.submit(4, lambda number=number: written.append(number))  # type: ignore[misc]
    assert sorted(written) == list(range(50))


def test_no_more_bytes_wait_than_there_is_room_for_and_what_is_larger_waits_alone() -> None:
    waiting: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    def write(size: int) -> None:
        with lock:
            most.append(sum(waiting))
            waiting.remove(size)

    with BackgroundWrites(2, 10) as writes:
        for size in (3, 4, 5, 30, 2, 9, 1, 1) * 20:
            with lock:
                waiting.append(size)
            writes.submit(size, lambda size=size: write(size))  # type: ignore[misc]
    # One more than fits is listed here while it waits for its room.
    assert max(most) <= 10 + 30
    assert not waiting


def test_two_are_written_at_once() -> None:
    both = threading.Barrier(2, timeout=10)
    with BackgroundWrites(2, 10) as writes:
        for _ in range(2):
            writes.submit(1, lambda: both.wait() and None)


@pytest.mark.parametrize("late", [False, True])
def test_the_first_error_is_the_callers_and_nothing_is_begun_after_it(late: bool) -> None:
    begun: list[int] = []
    failed = threading.Event()

    def fail() -> None:
        begun.append(-1)
        failed.set()
        raise OSError("the disk is full")

    def submit_all(writes: BackgroundWrites) -> None:
        writes.submit(1, fail)
        if not late:
            failed.wait(10)
            for number in range(1000):
                writes.submit(1, lambda number=number: begun.append(number))  # type: ignore[misc]

    with pytest.raises(OSError, match="the disk is full"), BackgroundWrites(1, 100) as writes:
        submit_all(writes)
    assert begun == [-1]


def test_an_error_of_the_caller_leaves_out_what_has_not_begun() -> None:
    go, begun = threading.Event(), threading.Event()
    written: list[int] = []

    def first() -> None:
        begun.set()
        go.wait(10)
        written.append(0)

    def submit_and_fail(writes: BackgroundWrites) -> None:
        writes.submit(1, first)
        begun.wait(10)
        for number in range(1, 5):
            writes.submit(1, lambda number=number: written.append(number))  # type: ignore[misc]
        threading.Timer(0.05, go.set).start()
        raise ValueError("of the caller")

    with pytest.raises(ValueError, match="of the caller"), BackgroundWrites(1, 100) as writes:
        submit_and_fail(writes)
    assert written == [0]  # what was in hand
