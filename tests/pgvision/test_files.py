"""Files are written aside and then renamed, and keep what a plain open() would keep."""

import os
import stat
import threading
from pathlib import Path

import pytest

from pgvision.files import replaced_path, user_path, write_text


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_has_the_mode_of_a_plain_open(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "new", "")
    assert mode(tmp_path / "new") == mode(tmp_path / "plain")


@pytest.mark.parametrize("bits", [0o600, 0o640, 0o755])
def test_a_file_that_is_there_keeps_its_mode(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "private.json"
    path.write_text("old")
    path.chmod(bits)
    write_text(path, "new")
    assert (path.read_text(), mode(path)) == ("new", bits)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_a_link(tmp_path: Path, there: bool) -> None:
    (tmp_path / "disk").mkdir()
    real, link = tmp_path / "disk" / "blob", tmp_path / "report.json"
    if there:
        real.write_text("old")
    Path(link).symlink_to(Path("disk") / "blob")
    with replaced_path(link) as aside:
        assert aside.suffix == ".json"  # writers look at the ending
        aside.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert sorted(tmp_path.iterdir()) == [tmp_path / "disk", link]
    assert list((tmp_path / "disk").iterdir()) == [real]


def test_a_failed_writer_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replaced_path(path) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_is_written_and_not_replaced(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe.txt", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "1 helmet")
    reader.join(10)
    assert got == ["1 helmet"]
    assert pipe.is_fifo()


def test_a_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    done = []
    with pytest.raises(IsADirectoryError, match="name a file"), replaced_path(tmp_path):
        done.append(1)
    assert done == []


def test_the_longest_name_of_a_file_system_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("\u5199" * 83 + ".txt")  # 253 bytes; 255 is the most
    write_text(path, "done")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["done"]


def test_writing_in_threads_leaves_the_umask_as_it_is(tmp_path: Path) -> None:
    def write(number: int) -> None:
        for turn in range(50):
            write_text(tmp_path / f"{number}.{turn}", "")

    before = os.umask(0o027)
    try:
        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {mode(file) for file in tmp_path.iterdir()} == {0o640}
    finally:
        assert os.umask(before) == 0o027


def test_a_file_whose_name_begins_with_a_tilde_is_no_user(tmp_path: Path) -> None:
    assert user_path("~nobody-of-this-name.jpg") == Path("~nobody-of-this-name.jpg")
    assert user_path("~") == Path.home()
    assert user_path(tmp_path) == tmp_path
