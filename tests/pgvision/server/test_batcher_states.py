"""The batcher's thread against any order of jobs: good, failing, late and abandoned ones."""

import sys
import time
from concurrent.futures import CancelledError
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
from scripted import Scripted

from pgvision.images import Frame
from pgvision.server.engine import Batcher, Job
from pgvision.tasks import Ask

FRAME = Frame(np.zeros((4, 4, 3), np.uint8), "a.png")


def answer(request):
    """Return the prompt itself; a prompt with "bad" breaks the batch that it is in."""
    if "bad" in request.prefix:
        raise ValueError(request.prefix)
    return request.prefix


class BatcherStates(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.rows = []
        self.batcher = Batcher(Scripted(answer), 4, self.rows.append)
        self.jobs = []

    @rule(
        count=st.integers(1, 3),
        bad=st.sampled_from([None, None, None, 0, 2]),
        late=st.sampled_from([False, False, False, True]),
    )
    def submit(self, count, bad, late):
        number = len(self.jobs)
        prefixes = [f"{number}.{k}" + " bad" * (k == bad) for k in range(count)]
        deadline = time.monotonic() + (-1 if late else 60)
        job = Job(FRAME, [Ask(prefix) for prefix in prefixes], deadline)
        self.jobs.append((job, prefixes, late))
        self.batcher.submit(job)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def abandon(self, data):
        data.draw(st.sampled_from(self.jobs))[0].is_abandoned = True

    @rule()
    def settle(self):
        for job, prefixes, late in self.jobs:
            if late:
                with pytest.raises(CancelledError):
                    job.future.result(timeout=30)
            elif job.is_abandoned:
                continue  # nobody waits for it; it may have been answered before
            elif any("bad" in prefix for prefix in prefixes):
                with pytest.raises(ValueError, match=f"^{prefixes[0].split('.')[0]}[.]. bad$"):
                    job.future.result(timeout=30)
            else:
                answers = job.future.result(timeout=30)
                assert [ask.prefix for ask, _ in answers] == prefixes
                assert [generation.text for _, generation in answers] == prefixes

    def teardown(self):
        self.batcher.close()  # finishes the queue
        self.settle()
        assert all(0 < rows <= 4 for rows in self.rows)


BatcherStates.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestBatcherStates = BatcherStates.TestCase
