"""Images that come, change and go, stops and kills, in any order: lost 0, repeated 0."""

import shutil
import sys
import tempfile
from pathlib import Path

import cv2
import hypothesis.strategies as st
import numpy as np
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

sys.path.insert(0, str(Path(__file__).parent))
from answering import make_job

SHADES = st.integers(1, 40)
NAMES = st.sampled_from("abcdef")


class Journaled(RuleBasedStateMachine):
    """The model: what each file shows now, and what it showed when it was last answered."""

    def __init__(self):
        super().__init__()
        self.place = Path(tempfile.mkdtemp())
        self.folder, self.journal = self.place / "in", self.place / "j"
        self.folder.mkdir()
        self.now, self.answered, self.version = {}, {}, 0
        self.put("a", 1)

    def teardown(self):
        shutil.rmtree(self.place)

    @rule(name=NAMES, shade=SHADES)
    def put(self, name, shade):
        """Write an image, perhaps in place of another; each has bytes of its own."""
        self.version += 1
        image = np.full((8, 9, 3), shade, np.uint8)
        image[0, 0] = (self.version // 250, self.version % 250, 0)
        cv2.imwrite(str(self.folder / f"{name}.png"), image)
        self.now[f"{name}.png"] = self.version

    @rule(name=NAMES)
    def break_file(self, name):
        self.version += 1
        (self.folder / f"{name}.png").write_text(f"no image {self.version}")
        self.now[f"{name}.png"] = self.version

    @precondition(lambda self: len(self.now) > 1)
    @rule(data=st.data())
    def remove(self, data):
        name = data.draw(st.sampled_from(sorted(self.now)))
        (self.folder / name).unlink()
        del self.now[name]

    @rule(count=st.integers(0, 7), killed=st.booleans())
    def run(self, count, killed):
        """Run the job for some answers, then stop it, or kill it; or to its end."""
        left = {name for name, version in self.now.items() if self.answered.get(name) != version}
        job, came = make_job(self.folder, self.journal), []
        stream = job.stream()
        for outcome in stream:
            came.append(outcome.source)
            self.answered[outcome.source] = self.now[outcome.source]
            if len(came) == count:
                break
        else:
            assert set(came) == left  # the end: nothing is lost
        assert len(came) == len(set(came)) and set(came) <= left  # nothing is asked twice
        if killed:
            for file in self.place.glob("j*"):
                shutil.copy(file, self.place / f"kept-{file.name}")
        stream.close()
        if killed:
            for file in self.place.glob("j*"):
                file.unlink()
            for file in self.place.glob("kept-*"):
                file.rename(self.place / file.name.removeprefix("kept-"))
        self.answered = {n: v for n, v in self.answered.items() if n in self.now or not job.items}

    @invariant()
    def a_full_run_of_a_copy_equals_a_fresh_job(self):
        with tempfile.TemporaryDirectory() as name:
            for file in self.place.glob("j*"):
                shutil.copy(file, Path(name) / file.name)
            resumed = make_job(self.folder, Path(name) / "j")
            fresh = make_job(self.folder, Path(name) / "fresh")
            resumed.run_all(), fresh.run_all()
            assert list(resumed.results()) == list(fresh.results())


TestJournaled = Journaled.TestCase
TestJournaled.settings = settings(max_examples=6, stateful_step_count=10, deadline=None)
