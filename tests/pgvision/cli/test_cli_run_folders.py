"""Where runs write: folders that count up, refusals before the work, inputs that stay inputs."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from pgvision.cli.runs import run_folder
from pgvision.errors import OptionError


def loaded(code):
    """Run in a process of its own; say whether torch came in."""
    tail = "\nimport sys; print('torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code + tail],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.stderr


def test_each_run_has_a_folder_of_its_own(run, picture, tmp_path):
    out = tmp_path / "found"
    for name in ("found", "found2", "found3"):
        ran = run("read", picture, "--out", out)
        assert ran.code == 0
        assert {file.name for file in (tmp_path / name).iterdir()} == {
            "results.jsonl",
            "site.overlay.jpg",
        }
    assert f"wrote {tmp_path / 'found3' / 'results.jsonl'}" in ran.err


def test_overwrite_takes_an_earlier_runs_files_away_and_nothing_else(run, picture, tmp_path):
    out = tmp_path / "found"
    assert run("read", picture, "--out", out).code == 0
    (out / "notes.txt").write_text("mine")
    other = picture.with_name("other.png")
    picture.rename(other)
    assert run("read", other, "--out", out, "--overwrite").code == 0
    assert sorted(file.name for file in out.iterdir()) == [
        "notes.txt",
        "other.overlay.jpg",
        "results.jsonl",
    ]
    assert (out / "results.jsonl").read_text().count("\n") == 1


def test_a_folder_without_a_run_is_taken_as_it_is(tmp_path):
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "site.jpg").touch()
    assert run_folder(tmp_path / "found", overwrite=False) == tmp_path / "found"


def test_the_working_folder_is_not_counted_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results.jsonl").touch()
    with pytest.raises(OptionError, match="--overwrite"):
        run_folder(tmp_path, overwrite=False)


def test_overlays_are_no_inputs(run, picture, film):
    folder = picture.parent
    film.rename(folder / "film.mp4")
    first = run("detect", "helmet", folder, "--json", "--out", folder)
    assert {file.name for file in folder.glob("*.overlay.*")} == {
        "film.overlay.mp4",
        "site.overlay.jpg",
    }
    for source in (folder, folder / "*"):
        again = run("detect", "helmet", source, "--json")
        assert len(again.lines) == len(first.lines) == 7


@pytest.mark.parametrize("option", ["--out", "--coco"])
def test_a_place_that_cannot_be_written_is_said_before_the_model_loads(picture, tmp_path, option):
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "found"
    words = ["detect", "helmet", str(picture), option, str(place / "a.json")]
    err = loaded(
        "from pgvision.cli.app import main\n"
        f"try: main({words!r})\nexcept SystemExit as end: assert end.code == 2"
    )
    lines = err.splitlines()
    assert len(lines) == 2
    assert option in lines[0]
    assert lines[1] == "False"


@pytest.mark.parametrize("command", ["detect", "batch"])
def test_inputs_are_not_overwritten(run, picture, tmp_path, command):
    """case: --coco IMAGE replaced the image."""
    before = picture.read_bytes()
    words = [*(["batch"] if command == "batch" else []), "detect", "helmet", picture]
    ran = run(*words, "--coco", picture)
    assert (ran.code, "contains something else than JSON" in ran.err) == (2, True)
    ran = run(*words, "--coco", tmp_path)
    assert (ran.code, "there is a folder" in ran.err) == (2, True)  # before the work, not after it
    assert picture.read_bytes() == before


def test_a_full_disk_is_one_line(run, picture, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device", "/data/results.jsonl")

    monkeypatch.setattr("pgvision.cli.runs.run_outputs", full)
    ran = run("read", picture)
    assert ran.code == 1
    assert ran.err.strip().endswith("pgvision: /data/results.jsonl: No space left on device")


def test_missing_files_are_noticed_without_a_model(tmp_path):
    words = ["detect", "helmet", str(tmp_path / "gone.jpg"), str(tmp_path / "*.png"), "--json"]
    err = loaded(
        "from pgvision.cli.app import main\n"
        f"try: main({words!r})\nexcept SystemExit as end: assert end.code == 1"
    )
    assert "gone.jpg: no such file" in err
    assert err.splitlines()[-1] == "False"


def test_the_pictures_of_a_run_are_drawn(run, picture, tmp_path):
    assert run("detect", "helmet; worker", picture, "--out", tmp_path / "found").code == 0
    drawn = cv2.imread(str(tmp_path / "found" / "site.overlay.jpg"))
    assert np.abs(drawn.astype(int) - cv2.imread(str(picture))).mean() > 0.5
