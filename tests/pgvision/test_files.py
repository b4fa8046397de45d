"""Files are written aside and then renamed, and keep what a plain open() would keep."""

import stat
from pathlib import Path

import pytest

from pgvision.files import replaced_path, write_text


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
