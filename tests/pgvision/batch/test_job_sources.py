"""Lists and tar files: the answers of the plain folder, in its order."""

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from answering import make_job, make_pictures
from storing import FORMS, stored_as

from pgvision.errors import ImageError, OptionError, SourceError
from pgvision.images import FrameFailure, iter_frames
from pgvision.images.containers import list_tar


@pytest.fixture
def source_of(request, tmp_path):
    """Pictures with a broken one among them, in the form that the test names."""
    form = request.param
    folder = make_pictures(tmp_path / "in", 23)
    (folder / "7.png").write_bytes(b"no picture")
    return folder, stored_as(form, folder, tmp_path)


def answers(job):
    """What was answered, without the picture's name: that is the form's own."""
    return [{**one, "source": None, "message": None} for one in job.results()]


@pytest.mark.parametrize("source_of", FORMS[1:], indirect=True)
def test_every_form_gives_the_folders_answers(source_of, tmp_path):
    folder, source = source_of
    job, plain = make_job(source, tmp_path / "j"), make_job(folder, tmp_path / "k")
    assert len(job.run_all()) == 23
    plain.run_all()
    assert answers(job) == answers(plain)
    assert job.num_unread() == 1
    assert make_job(source, tmp_path / "j").run_all() == []


@pytest.mark.parametrize("source_of", FORMS[1:], indirect=True)
def test_every_form_gives_the_folders_frames(source_of):
    folder, source = source_of
    found = list(iter_frames(source, on_error="record"))
    wanted = list(iter_frames(folder, on_error="record"))
    assert len(found) == len(wanted) == 23
    for one, other in zip(found, wanted, strict=True):
        assert one.ok == other.ok
        assert not one.ok or np.array_equal(one.bgr, other.bgr)
        assert Path(one.source).name == Path(other.source).name


def test_a_tar_file_that_changed(tmp_path):
    folder = make_pictures(tmp_path / "in", 5)
    source = stored_as("tar", folder, tmp_path)
    make_job(source, tmp_path / "j").run_all()
    make_pictures(tmp_path / "other", 300)
    (folder / "2.png").write_bytes((tmp_path / "other" / "299.png").read_bytes())
    stored_as("tar", folder, tmp_path)  # another time, one other picture
    job = make_job(source, tmp_path / "j")
    assert [one.source for one in job.stream()] == ["pictures.tar/2.png"]
    assert "replaced since" in job.notes[0]


def packed(path, members):
    with tarfile.open(path, "w") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def linked(name, target, kind):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "name", ["../a.png", "/etc/a.png", "a/../../b.png", "C:\\a.png", "..\\a.png", "//host/x/a.png"]
)
def test_members_that_would_lie_outside(tmp_path, name):
    path = packed(tmp_path / "a.tar", [(tarfile.TarInfo(name), b"x")])
    with pytest.raises(SourceError, match="leads outside of it"):
        list_tar(str(path))


def test_links_folders_and_sidecars_in_tar_files_are_no_pictures(tmp_path):
    members = [
        (linked("a.png", "/etc/passwd", tarfile.SYMTYPE), b""),
        (linked("b.png", "../secret.png", tarfile.LNKTYPE), b""),
        (linked("c.png", "", tarfile.DIRTYPE), b""),
        (linked("d.png", "", tarfile.CHRTYPE), b""),
        (tarfile.TarInfo("e.json"), b"{}"),
    ]
    path = packed(tmp_path / "a.tar", members)
    with pytest.raises(SourceError, match="no image in this tar file"):
        list_tar(str(path))
    packed(path, [*members, (tarfile.TarInfo("f.png"), b"no picture")])
    assert [one.name for one in list_tar(str(path))] == [f"{path}/f.png"]
    (failure,) = iter_frames(str(path), on_error="record")
    assert isinstance(failure.error, ImageError)


def test_a_member_that_claims_terabytes(tmp_path):
    """Its header says 2 TB; nothing is allocated for it."""
    info = tarfile.TarInfo("a.png")
    info.size = 1 << 41
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate((1 << 41) + 2048)
    (failure,) = iter_frames(str(path), on_error="record")
    assert isinstance(failure, FrameFailure)
    assert "2199023255552 bytes are too many for an image" in str(failure.error)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_claims_terabytes(tmp_path, kind):
    """It had ended in a MemoryError (found by fuzzing): tarfile reads such a header as a whole."""
    info = tarfile.TarInfo("a.png")
    info.type, info.size = kind, 1 << 41
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate((1 << 41) + 2048)
    with pytest.raises(SourceError, match="a header of 2199023255552 bytes"):
        list_tar(str(path))


def test_tar_files_that_are_none(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.png"))
    for data in (path.read_bytes(), b"", b"no tar at all" * 100):
        path.write_bytes(data)
        with pytest.raises(SourceError):
            list_tar(str(path))
    with pytest.raises(SourceError, match="no such file|cannot be opened"):
        list_tar(str(tmp_path / "missing.tar"))


def test_many_tar_files_by_a_pattern(tmp_path):
    sources = []
    for number in range(3):
        folder = make_pictures(tmp_path / f"in{number}", 2)
        source = Path(stored_as("tar", folder, tmp_path))
        sources.append(source.rename(tmp_path / f"{number}.tar"))
    job = make_job(str(tmp_path / "*.tar"), tmp_path / "j")
    assert [one.name for one in job.items] == [
        f"{source.name}/{number}.png" for source in sources for number in range(2)
    ]
    assert len(job.run_all()) == len(list(iter_frames(str(tmp_path / "*.tar")))) == 6


def test_a_tar_file_in_a_list(tmp_path):
    folder = make_pictures(tmp_path / "in", 2)
    stored_as("tar", folder, tmp_path)
    (tmp_path / "all.txt").write_text("pictures.tar\nin/0.png\n")
    assert len(make_job(tmp_path / "all.txt", tmp_path / "j").run_all()) == 3
    assert len(list(iter_frames(str(tmp_path / "all.txt")))) == 3
    (tmp_path / "all.jsonl").write_text('{"image": "all.txt"}')
    with pytest.raises(OptionError, match="list within a list"):
        make_job(tmp_path / "all.jsonl", tmp_path / "j")
