"""`pgvision doctor`: looks at what is really there, and says what to do."""

import json
import os
import subprocess
import sys

import pytest

from pgvision.cli.doctor import check_hub, check_opencv, check_torch, check_transformers, examined
from pgvision.errors import ImageError


def install(folder, name, version):
    """Put a package's metadata where Python finds it first."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_doctor_finds_this_machine_well(run):
    ran = run("doctor", "--json")
    checks = {check["name"]: check for check in ran.lines}
    assert {"python", "transformers", "torch", "opencv", "hub", "checkpoint"} <= set(checks)
    assert {"engine", "dtype", "eos", "attention mask", "mask codec"} <= set(checks)
    assert [check for check in ran.lines if check["status"] == "fail"] == []
    assert ran.code == 0


def test_doctor_speaks_to_people(run):
    ran = run("doctor")
    assert "attention mask" in ran.out
    assert ran.out.lstrip().startswith("ok")


def test_a_checkpoint_that_is_not_there_is_a_failure_with_a_way_out(run, tmp_path):
    ran = run("doctor", "--json", "--model", tmp_path)
    assert ran.code == 1
    (failed,) = [check for check in ran.lines if check["status"] == "fail"]
    assert failed["name"] == "checkpoint"
    assert "config.json" in failed["found"]


def test_opencv_that_does_not_import_names_the_libraries(tmp_path, monkeypatch):
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    check = check_opencv()
    assert check.status == "fail"
    assert "libGL.so.1" in check.found
    assert "apt-get install -y libgl1 libglib2.0-0 libxcb1" in check.fix


def test_a_check_that_breaks_is_a_finding(tmp_path, monkeypatch):
    """A broken torch raises OSError; the command that should explain it ended with that."""
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.12: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert examined(check_torch) == ("fail", "OSError: libcudart.so.12: cannot open", "")


def test_doctor_runs_where_opencv_does_not_import(tmp_path):
    """It is what names the missing libraries, so it must not need them."""
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object')")
    places = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "pgvision", "doctor", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
    )
    checks = {check["name"]: check for check in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 1, done.stderr
    assert "apt-get install" in checks["opencv"]["fix"]
    assert list(checks)[-1] in ("checkpoint", "mask codec")  # it went on
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("5.23.0", "ok"),
        ("5.30.2", "note"),
    ],
)
def test_transformers_is_compared_with_what_was_tested(tmp_path, monkeypatch, version, status):
    install(tmp_path, "transformers", version)
    monkeypatch.syspath_prepend(tmp_path)
    assert check_transformers().status == status


def test_no_login_is_a_note(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    check = check_hub()
    assert check.status == "note"
    assert "hf auth login" in check.fix


def test_errors_of_ours_are_findings():
    def broken():
        raise ImageError("no picture")

    assert examined(broken).status == "fail"


def test_findings_are_one_json_object_a_line(run):
    for line in run("doctor", "--json").out.splitlines():
        assert set(json.loads(line)) == {"name", "status", "found", "fix"}
