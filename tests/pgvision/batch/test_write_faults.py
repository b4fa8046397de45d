"""Writes that fail, one after the other: full disk, lost permission; nothing is lost or half."""

import json
import resource
import sqlite3
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgvision.batch import Journal, Row
from pgvision.batch.coco_files import write_coco_file, write_json_lines
from pgvision.files import append_line, write_text
from pgvision.results import DetectionResult

NAMES = [f"{number}.png" for number in range(8)]
LISTING = {"listing": "1", "num_listed": len(NAMES), "places": range(len(NAMES))}


def answer(name):
    return json.dumps({"source": name, "text": name * 300})


@contextmanager
def disk_of(num_bytes):
    """Let the system refuse each byte of a file after the first ``num_bytes``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def run(path, reported, names=NAMES):
    """Run a job without a model; ``reported`` gets each answer that the journal accepted."""
    with Journal(path, {"task": "read"}) as journal:
        journal.list_items(NAMES, **LISTING)
        for name in names:
            journal.add(Row(name, result=answer(name)))
            reported.append(name)


def require_nothing_lost(path, reported):
    """Reopen a journal after a fault: it has what was reported, whole, and takes the rest."""
    with Journal(path, {"task": "read"}) as journal:
        journal.list_items(NAMES, **LISTING)
        found = [result["source"] for result in journal.results()]
        # The answer in progress may be there too: its commit came before the fault.
        assert found[: len(reported)] == reported
        assert len(found) <= len(reported) + 1
    run(path, [], NAMES[len(found) :])
    with Journal(path, {"task": "read"}) as journal:
        assert list(journal.results()) == [json.loads(answer(name)) for name in NAMES]


def test_a_disk_that_is_full_after_any_number_of_bytes(tmp_path):
    num_faults, num_reported = 0, set()
    for size in range(0, 1 << 20, 2048):
        path, reported = tmp_path / f"{size}.journal", []
        try:
            with disk_of(size):
                run(path, reported)
        except OSError as error:
            assert (error.filename, "cannot be written" in str(error)) == (str(path), True)
            num_faults += 1
            num_reported.add(len(reported))
            require_nothing_lost(path, reported)
        else:
            break
    assert num_faults > 10
    assert num_reported >= {0, 1, 2, 3, 4, 5, 6, 7}


class Failing(sqlite3.Connection):
    """Raises in place of the n-th statement, and in its place alone."""

    left, code = 0, sqlite3.SQLITE_FULL

    def execute(self, *arguments):
        self.count()
        return super().execute(*arguments)

    def executemany(self, *arguments):
        self.count()
        return super().executemany(*arguments)

    @classmethod
    def count(cls):
        cls.left -= 1
        if cls.left == 0:
            error = sqlite3.OperationalError("injected")
            error.sqlite_errorcode = cls.code
            raise error


@pytest.mark.parametrize("code", ["FULL", "IOERR_FSYNC", "READONLY"])
def test_each_statement_fails_once(tmp_path, monkeypatch, code):
    real = sqlite3.connect
    Failing.code = getattr(sqlite3, f"SQLITE_{code}")
    for number in range(1, 1000):
        path, reported = tmp_path / f"{number}.journal", []
        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", lambda *a, **k: real(*a, factory=Failing, **k))
            Failing.left = number
            try:
                run(path, reported)
            except OSError as error:
                assert error.filename == str(path)
            if Failing.left > 0:
                break  # the run has fewer statements
        require_nothing_lost(path, reported)
    assert number > 5 * len(NAMES)  # at least five statements an answer
    assert reported == NAMES


def test_permission_lost_between_two_answers(tmp_path):
    path = tmp_path / "a.journal"
    with Journal(path, {"task": "read"}) as journal:
        journal.list_items(NAMES, **LISTING)
        journal.add(Row(NAMES[0], result=answer(NAMES[0])))
        journal.db.execute("PRAGMA query_only = 1")  # SQLite's own error of a read-only file
        with pytest.raises(OSError, match=r"cannot be written.*a\.journal"):
            journal.add(Row(NAMES[1], result=answer(NAMES[1])))
        journal.db.execute("PRAGMA query_only = 0")
    require_nothing_lost(path, NAMES[:1])


def results():
    for name in NAMES:
        result = DetectionResult(
            image_hw=(40, 60),
            xyxy=[[1, 2, 11, 22]],
            labels=["helmet"],
            class_ids=[0],
            classes=["helmet"],
            source=name * 60,
        )
        yield result.to_dict()


WRITERS = {
    "text": lambda path: write_text(path, "a" * 5000),
    "json lines": lambda path: write_json_lines(path, results()),
    "coco": lambda path: write_coco_file(path, results),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_of_results_is_the_earlier_one_or_the_whole_new_one(tmp_path, writer):
    path, num_faults = tmp_path / "results.json", 0
    for size in range(0, 1 << 20, 256):
        path.write_text("earlier")
        try:
            with disk_of(size):
                WRITERS[writer](path)
        except OSError as error:
            assert error.filename == str(path)
            assert path.read_text() == "earlier"
            num_faults += 1
        else:
            break
        assert list(tmp_path.iterdir()) == [path]
    assert num_faults > 5
    assert path.stat().st_size > 1000


@pytest.mark.parametrize("refused", ["touch", "chmod", "replace"])
def test_a_file_that_may_not_be_put_in_its_place_is_named(tmp_path, monkeypatch, refused):
    path = tmp_path / "results.json"
    path.write_text("earlier")

    def refuse(aside, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(aside))

    monkeypatch.setattr(Path, refused, refuse)
    with pytest.raises(PermissionError) as caught:
        write_text(path, "new")
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "earlier"


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    """The writer's source may be what cannot be read."""

    def lines():
        yield {"a": 1}
        (tmp_path / "source.jsonl").read_text()

    with pytest.raises(FileNotFoundError) as caught:
        write_json_lines(tmp_path / "results.json", lines())
    assert caught.value.filename == str(tmp_path / "source.jsonl")


def test_a_line_is_appended_whole_or_not_at_all(tmp_path):
    path, line = tmp_path / "log.jsonl", "b" * 400
    for size in range(0, 2000, 50):
        path.write_text("")
        written = 0
        with pytest.raises(OSError) as caught, disk_of(size):
            while True:
                append_line(path, line)
                written += 1
        assert caught.value.filename == str(path)
        assert path.read_text() == (line + "\n") * written
        append_line(path, "next")
        assert path.read_text().splitlines()[-1] == "next"
    assert written == 1950 // 401
