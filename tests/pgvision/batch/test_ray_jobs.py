"""The job on a local Ray cluster of two workers: exactly the file of a single process."""

import os
import signal
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")
sys.path.insert(0, str(Path(__file__).parent))
from answering import make_job, make_pictures
from storing import FORMS, stored_as
from test_bulk_jobs import names_in

from pgvision.batch import Job, Recipe

NUM_PICTURES = 96
pytestmark = [
    pytest.mark.slow,  # a cluster starts, and its workers load the library
    pytest.mark.filterwarnings("ignore"),  # Ray leaves sockets and futures behind
]


class SlowTexts:
    """A generator that travels: what it says hangs on the picture, and it takes its time."""

    def __init__(self, notes, seconds=0.05):
        self.notes, self.seconds = notes, seconds

    @property
    def card(self):
        from answering import engine

        return engine().card

    def generate(self, requests, *, batch_size=None):
        from answering import engine

        with (Path(self.notes) / str(os.getpid())).open("a") as file:
            file.write("x")
        yield from engine(seconds=self.seconds).generate(requests, batch_size=batch_size)


@pytest.fixture(scope="module")
def cluster():
    import ray

    place = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    ray.init(
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 << 20,
        runtime_env={"env_vars": place},
    )
    yield ray
    ray.shutdown()


def test_a_worker_and_the_driver_are_lost_and_nothing_else(cluster, tmp_path):
    from pgvision.batch.ray import run_on_ray

    folder = make_pictures(tmp_path / "in", NUM_PICTURES)
    (folder / "50.png").write_bytes(b"no picture")
    whole = make_job(folder, tmp_path / "whole")
    whole.run_all()
    whole.write_coco(tmp_path / "whole.json")
    notes = tmp_path / "notes"
    notes.mkdir()
    recipe = Recipe("detect", {"classes": ["helmet"], "generator": SlowTexts(str(notes))})
    job = Job(recipe, [folder], tmp_path / "ray")

    counts = run_on_ray(job, num_actors=2)
    next(counts)
    workers = [int(path.name) for path in notes.iterdir()]
    os.kill(workers[0], signal.SIGKILL)
    for count in counts:
        if count >= NUM_PICTURES // 2:
            break
    counts.close()  # the driver is stopped here
    answered = names_in(tmp_path / "ray")
    assert NUM_PICTURES // 2 <= len(answered) < NUM_PICTURES

    *_, last = run_on_ray(job, num_actors=2)
    assert last == NUM_PICTURES - len(answered)
    names = names_in(tmp_path / "ray")
    assert len(names) == len(set(names)) == NUM_PICTURES
    assert job.num_left() == 0
    job.write_coco(tmp_path / "ray.json")
    assert (tmp_path / "ray.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert list(job.results()) == list(whole.results())
    assert len(list(notes.iterdir())) >= 3  # another worker took the lost one's place


@pytest.mark.parametrize("form", FORMS[1:])
def test_every_form_of_sources_gives_the_single_process_file(cluster, tmp_path, form):
    from pgvision.batch.ray import run_on_ray

    folder = make_pictures(tmp_path / "in", 40)
    (folder / "7.png").write_bytes(b"no picture")
    notes = tmp_path / "notes"
    notes.mkdir()
    recipe = Recipe("detect", {"classes": ["helmet"], "generator": SlowTexts(str(notes), 0.0)})
    source = stored_as(form, folder, tmp_path)
    whole = make_job(source, tmp_path / "whole")
    whole.run_all()
    job = Job(recipe, [source], tmp_path / "ray")
    *_, last = run_on_ray(job, num_actors=2)
    assert last == 40 and job.num_left() == 0
    whole.write_coco(tmp_path / "whole.json")
    job.write_coco(tmp_path / "ray.json")
    assert (tmp_path / "ray.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert list(job.results()) == list(whole.results())
