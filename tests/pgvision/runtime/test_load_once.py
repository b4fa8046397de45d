"""One engine per process: from any thread, however it is spelt, until its files change."""

import gc
import os
import shutil
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PaliGemmaForConditionalGeneration

from pgvision.runtime import Engine, Picture, Request, load, loading, open_engine, unload

IMAGE = Picture(np.full((20, 30, 3), 90, np.uint8))


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


def test_kinds_share_the_weights(folder: Path) -> None:
    plain, told = load(folder), load(folder, kind="pt")
    assert (plain.card.kind, told.card.kind) == ("ft", "pt")
    assert told.model is plain.model
    assert load(folder, kind="pt") is told


def test_what_is_unloaded_is_free(folder: Path) -> None:
    kept = weakref.ref(load(folder))
    gc.collect()
    assert kept() is not None
    assert unload(folder) == 1
    assert kept() is None
    assert unload(folder) == 0


def test_an_engine_that_nothing_refers_to_is_free(folder: Path) -> None:
    """Without the garbage collector: no cycle keeps weights."""
    for library in ("onnx", "torch"):
        made = open_engine(folder, engine=library)
        (answer,) = made.generate([Request(picture=IMAGE, prefix="ocr", max_new_tokens=2)])
        backend = weakref.ref(made.backend)
        unload(folder)
        assert backend() is not None
        gc.disable()
        try:
            del made, answer
            assert backend() is None, library
        finally:
            gc.enable()


def test_old_weights_are_free_before_new_ones_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = weakref.ref(load(folder).backend)
    read, seen = loading._read, []
    monkeypatch.setattr(loading, "_read", lambda *a: seen.append(old()) or read(*a))
    os.utime(folder / "model.safetensors")
    load(folder)
    assert seen == [None]


def test_an_engine_of_onnx_runtime_is_shared_and_loaded_anew(folder: Path) -> None:
    first = open_engine(folder)
    assert "; ONNX Runtime, float32" in first.backend.description
    assert open_engine(folder) is first
    assert open_engine(folder, kind="pt").backend is first.backend
    os.utime(folder / "model.safetensors")
    assert open_engine(folder) is not first
    assert unload(folder) == 1
