"""``--revision``, ``--batch-size`` and ``--classes-per-prompt``: they reach what they name."""

import sys
from pathlib import Path

import pytest

from pgvision.datasets import read_dataset
from pgvision.runtime import onnx_backend, unload
from pgvision.runtime.checkpoints import TINY_FOLDER
from pgvision.runtime.engine import _Batch
from recipes.scenes.export import export_scenes

sys.path.insert(0, str(Path(__file__).parents[1] / "images"))
from mjpeg import pictures, serving

TASKS = [
    ["detect", "worker"],
    ["segment", "worker"],
    ["caption"],
    ["ask", "is there a truck?"],
    ["read"],
]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def batches(monkeypatch):
    """Of each group of prompts that entered the real model: its size, and that of the batch."""
    sizes = []
    enter = _Batch.enter

    def counted(self, rows):
        enter(self, rows)
        sizes.append((len(rows), len(self.rows)))

    monkeypatch.setattr(_Batch, "enter", counted)
    return sizes


@pytest.mark.parametrize("words", TASKS, ids=lambda words: words[0])
def test_batch_size_is_how_many_prompts_go_together(run, film, batches, words):
    assert run(*words, film, "--json", "--batch-size", 4).code == 0
    assert sum(entered for entered, _ in batches) == 6
    assert max(together for _, together in batches) == 4


def test_batch_size_changes_no_answer(run, film):
    one, four = (
        run("detect", "worker; helmet", film, "--json", "--batch-size", size).lines
        for size in (1, 4)
    )
    assert len(one) == len(four) == 6
    assert sum(len(line["labels"]) for line in one) > 0
    for alone, together in zip(one, four, strict=True):
        for field in ("prefix", "raw_text", "labels", "loc_yxyx", "frame_index"):
            assert alone[field] == together[field]
        assert alone["scores"] == pytest.approx(together["scores"], abs=1e-4)


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_classes_per_prompt_is_how_many_are_asked_for_at_once(run, picture, task):
    phrase = "helmet; worker; truck"
    prompts = {}
    for size in (1, 2, 3):
        words = (task, phrase, picture, "--json", "--classes-per-prompt", size)
        (line,) = run(*words).lines
        assert line["classes"] == ["helmet", "worker", "truck"]
        prompts[size] = line["prefix"].split("\n")
    assert prompts[1] == [f"{task} helmet", f"{task} worker", f"{task} truck"]
    assert prompts[2] == [f"{task} helmet ; worker", f"{task} truck"]
    assert prompts[3] == [f"{task} helmet ; worker ; truck"]


@pytest.mark.parametrize("words", TASKS, ids=lambda words: words[0])
def test_threads_and_drafts_reach_the_decoder(run, film, monkeypatch, words):
    seen, threads = [], set()
    enter = _Batch.enter

    def watched(self, rows):
        seen.append({(row.request.drafts, bool(len(row.request.draft))) for row in rows})
        enter(self, rows)

    monkeypatch.setattr(_Batch, "enter", watched)
    session = onnx_backend.OnnxBackend._session
    monkeypatch.setattr(
        onnx_backend.OnnxBackend,
        "_session",
        lambda self, *a: threads.add(self.threads) or session(self, *a),
    )
    unload()
    for drafts, guessed in (("exact", True), ("off", False)):
        seen.clear()
        shared = ("--json", "--threads", 2, "--batch-size", 1, "--drafts", drafts, "--stride", 2)
        assert run(*words, film, *shared).code == 0
        assert seen[1:] == [{(drafts, guessed)}] * 2
    assert threads == {2}


def test_the_kind_says_which_prompts_are_known(run, picture):
    refused = run("caption", picture, "--kind", "refcoco-seg")
    assert (refused.code, refused.out) == (2, "")
    assert "was not taught 'caption'" in refused.err
    assert "kind: expected one of pt, mix" in run("detect", "worker", picture, "--kind", "x").err
    assert run("caption", picture, "--kind", "mix", "--language", "de", "--json").code == 0


@pytest.mark.parametrize("words", [*TASKS, ["doctor"]], ids=lambda words: words[0])
def test_a_folder_has_no_revisions(run, picture, words):
    source = [] if words == ["doctor"] else [picture]
    ran = run(*words, *source, "--model", TINY_FOLDER, "--revision", "v2", "--json")
    # What was typed cannot be; the doctor makes a finding of it.
    assert ran.code == (1 if words == ["doctor"] else 2)
    assert "only hub ids have revisions" in (ran.out if words == ["doctor"] else ran.err)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub cache, laid out as downloads leave it, with revision v2 of one checkpoint."""
    model = tmp_path / "hub" / "models--me--site-mix-160"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "v2").write_text(COMMIT)
    (model / "snapshots").mkdir()
    (model / "snapshots" / COMMIT).symlink_to(TINY_FOLDER)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return "me/site-mix-160"


def test_a_revision_is_what_the_hub_is_asked_for(run, picture, hub):
    words = ("read", picture, "--json", "--model", hub)
    assert run(*words, "--revision", "v2").lines[0]["type"] == "TextResult"
    assert run(*words, "--revision", COMMIT).code == 0
    for absent in ([], ["--revision", "v3"]):
        ran = run(*words, *absent)
        assert ran.code == 1
        assert hub in ran.err
        assert "Traceback" not in ran.err


def test_the_doctor_looks_at_a_revision(run, hub):
    checks = {}
    for revision in ("v2", "v3"):
        lines = run("doctor", "--json", "--model", hub, "--revision", revision).lines
        checks[revision] = {line["name"]: line["status"] for line in lines}
    assert checks["v2"]["checkpoint"] == "ok"
    assert checks["v3"]["checkpoint"] == "fail"


@pytest.fixture
def sites(run, tmp_path):
    out = tmp_path / "sites"
    export_scenes(out, count=2, seed=20_000_000, image_hw=(240, 320))
    return out


def test_eval_asks_as_it_was_told(run, sites, tmp_path, batches):
    source = sites / "instances.json"
    words = ("eval", "--data", source, "--out", tmp_path / "report", "--limit", 1, "--worst", 0)
    assert run(*words, "--classes-per-prompt", 2, "--batch-size", 3).code == 0
    prompts = -(-len(read_dataset(source).classes) // 2)
    assert sum(entered for entered, _ in batches) == prompts
    assert max(together for _, together in batches) == 3
    # Other batches give the same answers, other prompts do not.
    same = run(*words, "--classes-per-prompt", 2, "--batch-size", 1)
    assert (same.code, "resuming after 1 of 1" in same.err) == (0, True)
    other = run(*words, "--classes-per-prompt", 1)
    assert (other.code, "resuming" in other.err) == (0, False)
    refused = run(*words, "--revision", "v2")
    assert refused.code == 2
    assert "only hub ids have revisions" in refused.err


def test_eval_of_texts_asks_in_batches_as_it_was_told(run, sites, tmp_path, batches):
    words = ("eval", "--data", sites / "examples.jsonl", "--task", "caption")
    assert run(*words, "--out", tmp_path / "report", "--batch-size", 2).code == 0
    assert max(together for _, together in batches) == 2


@pytest.mark.parametrize("task", ["ask", "caption"])
@pytest.mark.parametrize(
    "option",
    [
        ["--classes-per-prompt", 2],
        ["--conf", 0.5],
        ["--calibrate", "isotonic"],
    ],
    ids=lambda option: option[0],
)
def test_eval_of_texts_refuses_what_it_would_not_look_at(run, tmp_path, task, option):
    words = ("eval", "--data", tmp_path / "examples.jsonl", "--task", task)
    ran = run(*words, "--out", tmp_path / "report", *option)
    assert ran.code == 2
    assert option[0] in ran.err
    assert not (tmp_path / "report").exists()


def test_a_live_address_through_the_whole_command(run, tmp_path):
    with serving(pictures(6)) as address:
        ran = run("detect", "worker", address, "--json", "--out", tmp_path)
    assert ran.code == 0
    indices = [line["frame_index"] for line in ran.lines]
    assert indices == sorted(set(indices)) and indices[-1] == 5  # the newest frame each time
    assert {line["source"] for line in ran.lines} == {address}
    times = [line["time"] for line in ran.lines]
    assert times == sorted(times)
    assert (tmp_path / "live.overlay.mp4").exists()
