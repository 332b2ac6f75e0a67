"""Where intake and learner meet: in order, bounded, and nobody waits longer than they said."""

import threading
import time
from typing import Any

from cloud_learner.trajectory_queue import QueuedWindow, TrajectoryQueue


def make_window(seq: int) -> QueuedWindow:
    nothing: Any = None  # the queue never looks inside
    return QueuedWindow(("b", "boot"), seq, nothing)


def filled(count: int, max_windows: int = 256) -> TrajectoryQueue:
    queue = TrajectoryQueue(max_windows)
    for seq in range(count):
        queue.put(make_window(seq))
    return queue


def seqs(windows: list[QueuedWindow]) -> list[int]:
    return [window.seq for window in windows]


def test_windows_leave_in_the_order_in_which_they_came():
    queue = filled(5)
    assert seqs(queue.take(2, wait_s=0, idle_wait_s=0)) == [0, 1]
    assert seqs(queue.take(9, wait_s=0, idle_wait_s=0)) == [2, 3, 4]
    assert len(queue) == 0


def test_a_full_queue_gives_back_its_oldest_for_each_new_one():
    queue = filled(3, max_windows=3)
    displaced = [queue.put(make_window(seq)) for seq in (3, 4)]
    assert [window.seq for window in displaced if window] == [0, 1]
    assert seqs(queue.take(9, wait_s=0, idle_wait_s=0)) == [2, 3, 4]


def test_a_full_batch_is_not_waited_for():
    began = time.monotonic()
    assert len(filled(2).take(2, wait_s=30, idle_wait_s=30)) == 2
    assert time.monotonic() - began < 10


def test_whoever_waits_is_woken_by_a_full_batch_and_not_before():
    queue = TrajectoryQueue()
    taken: list[QueuedWindow] = []
    taker = threading.Thread(target=lambda: taken.extend(queue.take(2, wait_s=30, idle_wait_s=30)))
    taker.start()
    queue.put(make_window(0))
    taker.join(0.2)
    assert taker.is_alive()
    queue.put(make_window(1))
    taker.join(10)
    assert seqs(taken) == [0, 1]
