"""Shards written in another thread: in order, one at a time, and never lost silently."""

from __future__ import annotations

import threading

import pytest

from extract.shards.fill import Writer


def test_writes_are_made_in_order_by_another_thread():
    done, threads = [], set()

    def write(number):
        threads.add(threading.get_ident())
        done.append(number)

    with Writer() as writer:
        for number in range(5):
            writer.put(lambda number=number: write(number))
        writer.drain()
        assert done == list(range(5))
        writer.put(lambda: write(5))
    assert done == list(range(6))
    assert threads.isdisjoint({threading.get_ident()})
    assert len(threads) == 1


def fail():
    raise OSError("the disk is full")


def test_a_write_that_fails_is_raised_before_the_next_is_begun():
    begun = []
    with pytest.raises(OSError, match="full"), Writer() as writer:
        writer.put(fail)
        writer.put(lambda: begun.append(1))
    assert not begun
    with pytest.raises(OSError, match="full"), Writer() as writer:
        writer.put(fail)


def test_what_is_under_way_is_finished_after_ctrl_c():
    begun, go_on, done = threading.Event(), threading.Event(), []

    def slow():
        begun.set()
        go_on.wait(10)
        done.append(1)

    with pytest.raises(KeyboardInterrupt), Writer() as writer:
        writer.put(slow)
        assert begun.wait(10)
        threading.Timer(0.05, go_on.set).start()
        raise KeyboardInterrupt
    assert done


def test_the_first_error_is_the_one_that_is_raised():
    with pytest.raises(KeyboardInterrupt), Writer() as writer:
        writer.put(fail)
        raise KeyboardInterrupt
