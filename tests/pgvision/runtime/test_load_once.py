"""One engine per process: from any thread, however it is spelt, until its files change."""

import gc
import shutil
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import PaliGemmaForConditionalGeneration

from pgvision.runtime import Engine, load, threads_for, unload
from pgvision.runtime.threads import Threads


@pytest.fixture
def folder(engine: Engine, tmp_path: Path) -> Path:
    return Path(shutil.copytree(engine.card.location, tmp_path / "copy"))


def test_threads_may_load_at_the_same_time(folder: Path) -> None:
    """Without the lock weights stay without values in most runs, then and ever after."""
    folders = [Path(shutil.copytree(folder, folder.parent / str(n))) for n in range(4)]
    barrier = threading.Barrier(8)

    def go(number: int) -> Engine:
        barrier.wait()
        return load(folders[number // 2], device="cpu")

    with ThreadPoolExecutor(8) as pool:
        engines = list(pool.map(go, range(8)))
    assert len({id(one) for one in engines}) == 4, "two who name one folder share its engine"
    weights = {float(one.model.lm_head.weight.detach().sum()) for one in engines}
    assert len(weights) == 1
    for path in folders:
        unload(path)


def test_one_checkpoint_spelt_in_many_ways(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(folder)
    assert load(folder, dtype="float32", device="cpu") is engine
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert load(link) is engine
    monkeypatch.chdir(folder.parent)
    assert load("copy") is engine
    assert load("copy", dtype="bfloat16") is not engine


def test_a_relative_path_is_where_one_stands(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "elsewhere" / "copy"))
    monkeypatch.chdir(tmp_path)
    here = load("copy")
    monkeypatch.chdir(other.parent)
    assert load("copy") is not here


def test_a_retrained_folder_is_loaded_anew(folder: Path) -> None:
    before = load(folder)
    model = PaliGemmaForConditionalGeneration.from_pretrained(folder)
    with torch.no_grad():
        model.model.multi_modal_projector.linear.bias += 1.0
    model.save_pretrained(folder)
    after = load(folder)
    assert after is not before
    old, new = (one.model.model.multi_modal_projector.linear.bias for one in (before, after))
    torch.testing.assert_close(new, old + 1.0)
    (folder / "predictions.json").write_text("[]")  # not the checkpoint's own
    assert load(folder) is after


def test_kind_and_threads_share_the_weights(folder: Path) -> None:
    plain, told = load(folder), load(folder, kind="pt", threads=2)
    assert (plain.card.kind, told.card.kind) == ("ft", "pt")
    assert told.model is plain.model
    assert load(folder, kind="pt", threads=2) is told


def test_what_is_unloaded_is_free(folder: Path) -> None:
    kept = weakref.ref(load(folder))
    gc.collect()
    assert kept() is not None
    assert unload(folder) == 1
    assert kept() is None
    assert unload(folder) == 0


@pytest.mark.parametrize(
    ("wanted", "environment", "count"), [(None, None, 1), (None, "2", None), (3, "2", 3)]
)
def test_small_models_take_one_thread_unless_told(
    engine: Engine,
    wanted: int | None,
    environment: str | None,
    count: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if environment:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    assert threads_for(engine.model, wanted).count == count


def test_large_models_keep_pytorchs_threads(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("pgvision.runtime.threads._SMALL", 10)
    assert threads_for(engine.model).count is None


def test_the_count_of_threads_is_given_back() -> None:
    before = torch.get_num_threads()
    inside = before + 2
    threads, seen, entered, leave = Threads(inside), [], threading.Event(), threading.Event()

    def other() -> None:
        with Threads(inside):
            seen.append(torch.get_num_threads())
            entered.set()
            leave.wait(5)

    worker = threading.Thread(target=other)
    with threads, threads:  # entered again, and left while another is inside
        worker.start()
        assert entered.wait(5)
        assert torch.get_num_threads() == inside
    leave.set()
    worker.join()
    assert seen == [inside]
    assert torch.get_num_threads() == before
    with Threads(None):
        assert torch.get_num_threads() == before
