"""Live reader: frames, losses, returns and closing in any order, from a real camera on loopback."""

import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

sys.path.insert(0, str(Path(__file__).parent))
from camera import number_in, picture
from mjpeg import serving

import pgvision.images.live as live_module
from pgvision.images import FrameFailure, Live

FIRST = 3  # frames that FFmpeg wants before it opens a stream
SECONDS = 10.0  # longest wait for what must happen


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; fail if it does not become true."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.002)


class Watched(RuleBasedStateMachine):
    """The model: whether the camera is there, what it sent, and what the user took."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(live_module, "FIRST_WAIT", 0.01)
        self.patch.setattr(live_module, "LONGEST_WAIT", 0.04)
        self.camera = serving(lambda handler: self.film(handler))
        self.address = self.camera.__enter__()
        self.is_up, self.number, self.orders = True, 0, queue.Queue()
        self.is_open = False
        self.reset()

    def teardown(self) -> None:
        if self.is_open:
            self.close()
        self.camera.__exit__(None, None, None)
        self.patch.undo()

    def reset(self) -> None:
        self.events, self.num_sent, self.num_taken, self.num_losses = [], 0, 0, 0
        self.last_time = -1.0

    def film(self, handler: object) -> None:
        """Serve one connection: some frames at once, then as many as ordered; 0 hangs up."""
        if not self.is_up:
            return
        orders = self.orders = queue.Queue()
        orders.put(FIRST)
        while count := orders.get():
            for _ in range(count):
                self.number += 1
                handler.send(cv2.imencode(".jpg", picture(self.number))[1].tobytes())

    def settle(self, num_sent: int, num_events: int) -> None:
        """Wait until the reader has what the camera did."""
        self.num_sent += num_sent
        until(lambda: self.live.num_read == self.num_sent and len(self.events) == num_events)

    @initialize(patience=st.sampled_from([None, 60.0]))
    def begin(self, patience: float | None) -> None:
        self.patience = patience
        self.live = Live(self.address, patience=patience, on_event=lambda e: self.events.append(e))

    @precondition(lambda self: not self.is_open and self.is_up)
    @rule()
    def open(self) -> None:
        self.reset()
        self.watching, self.is_open = iter(self.live), True
        self.waiting = threading.Thread(target=lambda: self.take_one(next(self.watching)))
        self.waiting.start()
        self.settle(FIRST, 0)
        self.waiting.join(SECONDS)

    @precondition(lambda self: not self.is_open and not self.is_up and self.patience is None)
    @rule()
    def open_without_a_camera(self) -> None:
        """A typing error in the address is a failure at once."""
        self.reset()
        (failure,) = self.live
        assert isinstance(failure, FrameFailure)
        assert (self.live.num_read, self.events) == (0, [])

    @precondition(lambda self: self.is_open and self.is_up)
    @rule(count=st.integers(1, 4))
    def send(self, count: int) -> None:
        self.orders.put(count)
        self.settle(count, len(self.events))

    @precondition(lambda self: self.is_open and self.live.num_read > self.newest + 1)
    @rule()
    def take(self) -> None:
        """The newest frame comes, also from a camera that was lost since."""
        self.take_one(next(self.watching))
        assert self.newest == self.live.num_read - 1
        assert self.shown == self.number

    def take_one(self, frame: object) -> None:
        assert frame.time > self.last_time
        self.last_time, self.newest, self.shown = frame.time, frame.index, number_in(frame.bgr)
        self.num_taken += 1

    @precondition(lambda self: self.is_open and self.is_up)
    @rule()
    def lose(self) -> None:
        self.is_up = False
        self.orders.put(0)
        self.num_losses += 1
        self.settle(0, len(self.events) + 1)

    @precondition(lambda self: self.is_open and self.is_up)
    @rule()
    def flap(self) -> None:
        self.orders.put(0)
        self.num_losses += 1
        self.settle(FIRST, len(self.events) + 2)

    @precondition(lambda self: not self.is_up)
    @rule()
    def come_back(self) -> None:
        self.is_up = True
        if self.is_open:
            self.settle(FIRST, len(self.events) + 1)

    @precondition(lambda self: self.is_open)
    @rule()
    def close(self) -> None:
        """The reader ends, whatever it waits for, and reports nothing any more."""
        if self.is_up:  # FFmpeg notices the end with the next frame
            threading.Timer(0.02, self.orders.put, [1]).start()
        self.watching.close()
        assert not [t for t in threading.enumerate() if t.name == "pgvision-live"]
        self.orders.put(0)
        self.is_open, count = False, len(self.events)
        time.sleep(0.05)
        assert len(self.events) == count

    @invariant()
    def events_and_counts_are_those_of_the_camera(self) -> None:
        kinds = [event.kind for event in self.events]
        assert kinds == (["lost", "reconnected"] * self.num_losses)[: len(kinds)]
        if not self.is_open:
            return
        assert len(kinds) == 2 * self.num_losses - (not self.is_up)
        assert [e.seconds for e in self.events] == sorted(e.seconds for e in self.events)
        assert self.live.num_reconnects == self.num_losses - (not self.is_up)
        is_waiting = self.newest < self.live.num_read - 1
        assert self.live.num_read == self.num_taken + self.live.num_dropped + is_waiting


TestWatched = Watched.TestCase
TestWatched.settings = settings(max_examples=8, stateful_step_count=12, deadline=None)
