"""Whole runs: what comes out, what a killed one goes on with, and what is refused."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, PaliGemmaForConditionalGeneration
from transformers.integrations import is_tensorboard_available

from pgvision.datasets import read_splits
from pgvision.errors import DataError, OptionError
from pgvision.evaluation import Calibration
from pgvision.images import read_image
from pgvision.runtime import find_checkpoint, load, load_apart
from pgvision.tasks import Captioner, Detector, Segmenter
from pgvision.training.finetuning import FinetuneReport, FinetuneSettings, finetune
from pgvision.training.finetuning.binding import bind
from pgvision.training.finetuning.curve import read_curve
from pgvision.training.finetuning.settings import DataPlaces
from pgvision.training.finetuning.validation import score_objects

SMALL = {"batch_size": 2, "eval_limit": 2, "model": "tiny"}


def run(scenes: Path, out: Path, **options: object) -> FinetuneReport:
    places = DataPlaces(data=options.pop("data", scenes), valid=options.pop("valid", None))
    return finetune(places, out, FinetuneSettings(**{**SMALL, **options}), device="cpu")


def losses(folder: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in read_curve(folder) if "loss" in line}


def test_what_comes_out_is_a_checkpoint(
    scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    with caplog.at_level("INFO"):
        report = run(scenes, out, steps=3, ema=0.5, eval_every=9)
    assert report.finished and report.steps == 3
    assert set(report.after) >= {"ap", "ap50", "ar", "miou", "f1", "mean f1"}
    assert set(report.before) == set(report.after)
    told = (out / "README.md").read_text(encoding="utf-8")
    assert "codec of masks: tiny" in told and "helmet, head" in told and "how many" in told
    credits_ = told.partition("## Credits")[2].partition("\n## ")[0]
    assert "### Base: tiny" in credits_ and "license: apache-2.0" in credits_
    assert f"### Data: {scenes.name}" in credits_ and "pgvision rendered scenes" in credits_
    fitted = Calibration.load(out / "calibration.json")
    assert fitted.num_fitted > 0 and f"fitted to {fitted.num_fitted} answers" in told
    if is_tensorboard_available():
        assert list((out / "tensorboard").glob("events.*"))
    else:
        assert "no TensorBoard here, curve.csv only" in caplog.text
    image = read_image(next((scenes / "valid" / "images").iterdir()))
    result = Detector("helmet", model=out)(image)
    asked = Detector("helmet", model=out, calibrate=out / "calibration.json")(image)
    np.testing.assert_allclose(asked.scores, fitted.apply(result.scores), rtol=1e-6)
    card = find_checkpoint(out)
    assert card.kind == "tiny" and "fine-tuned to detect" in card.about
    model = PaliGemmaForConditionalGeneration.from_pretrained(out)
    assert AutoProcessor.from_pretrained(out).image_processor.size["height"] == 160
    own = load("tiny").model.state_dict()
    moved = [name for name, one in model.state_dict().items() if not torch.equal(one, own[name])]
    assert len(moved) > 100
    for name in ("curve.csv", "curve.png", "README.md"):
        assert (out / name).stat().st_size > 100
    assert "ap50" in (out / "README.md").read_text(encoding="utf-8")
    assert not list(out.glob("best.*"))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # in peft
def test_adapters_are_written_alone_where_that_is_asked_for(scenes: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    apart = tmp_path / "apart"
    options = {"steps": 2, "method": "lora", "learning_rate": 1e-2, "eval_every": 9}
    run(scenes, merged, **options)
    run(scenes, apart, **options, keep_adapter=True)
    assert (apart / "adapter_model.safetensors").exists()
    assert not (apart / "model.safetensors").exists()
    whole, beside = load(merged).model.state_dict(), load(apart).model.state_dict()
    tiny = load("tiny").model.state_dict()
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(whole[name], tiny[name])
    torch.testing.assert_close(whole[name], beside[name], rtol=1e-4, atol=1e-5)


def test_every_task_has_its_figures(scenes: Path, tmp_path: Path) -> None:
    segment = run(scenes, tmp_path / "s", steps=1, task="segment", mask_loss=1.0)
    assert "ap50" in segment.after
    image = read_image(next((scenes / "valid" / "images").iterdir()))
    Segmenter("helmet", model=tmp_path / "s")(image)
    texts = scenes / "train" / "examples.jsonl"
    caption = run(scenes, tmp_path / "c", steps=1, task="caption", data=texts)
    assert set(caption.after) == {"exact"}
    assert Captioner(model=tmp_path / "c")(image).text


def test_the_best_weights_are_written_not_the_last(scenes: Path, tmp_path: Path) -> None:
    """The first step has a rate of 0; the ones after it wreck the model."""
    out = tmp_path / "out"
    report = run(
        scenes, out, steps=3, batch_size=1, eval_every=1, learning_rate=0.3, dtype="float32"
    )
    assert report.best_step == 1 and report.after["ap50"] > 0.2
    figures = [line["figures"]["ap"] for line in read_curve(out) if "figures" in line]
    assert figures[-1] < figures[0] == report.after["ap"]
    own, written = load("tiny").model.state_dict(), load(out).model.state_dict()
    for name, weight in own.items():
        torch.testing.assert_close(written[name], weight, msg=name)
    valid = read_splits(scenes)["valid"]
    engine = load_apart("tiny", device="cpu", dtype="float32")
    assert report.after == score_objects(engine, valid, FinetuneSettings(steps=1)).figures


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"loc_weight": -1.0}, "loc_weight: expected 0 or more"),
        (dict.fromkeys(["loc_weight", "seg_weight", "label_weight", "end_weight"], 0.0), "all 0"),
    ],
)
def test_what_would_teach_nothing_is_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        FinetuneSettings(steps=1, **options)


def test_a_mixture_has_each_parts_figures(scenes: Path, tmp_path: Path) -> None:
    texts = scenes / "train" / "examples.jsonl"
    places = [DataPlaces(data=scenes, weight=2.0), DataPlaces(data=texts)]
    out = tmp_path / "out"
    recipe = FinetuneSettings(**SMALL, task="mix", steps=2, eval_every=9)
    report = finetune(places, out, recipe, device="cpu")
    name = f"detect {scenes.name}: ap"
    exact = report.after["ask examples.jsonl: exact"]
    assert report.after["mean"] == pytest.approx((report.after[name] + exact) / 2, abs=1e-4)
    assert find_checkpoint(out).about.endswith(
        f"to detect on {scenes.name}, to ask on examples.jsonl"
    )
    with pytest.raises(OptionError, match="data was '"):
        finetune([replace(places[0], weight=3.0), places[1]], out, recipe, device="cpu")


def test_a_closed_set_is_asked_as_it_was_trained(scenes: Path, tmp_path: Path) -> None:
    run(scenes, tmp_path / "out", steps=2, closed_set=True, num_objects=12)
    closed = find_checkpoint(tmp_path / "out").closed_set
    assert closed.num_objects == 12 and "helmet" in closed.classes
    image = read_image(next((scenes / "valid" / "images").iterdir()))
    result = Detector(["helmet", "head"], model=tmp_path / "out", nms=1.0)(image)
    assert result.raw_text.count(" ; ") == 11


def test_other_settings_data_or_folders_are_refused_by_name(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(scenes, out, steps=2)
    with pytest.raises(OptionError, match="learning_rate was None and is 0.1"):
        run(scenes, out, steps=2, learning_rate=0.1)
    with pytest.raises(OptionError, match="data was '"):
        run(scenes, out, steps=2, data=scenes / "train" / "instances.json")
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").touch()
    with pytest.raises(OptionError, match="is not empty and holds no run"):
        run(scenes, other, steps=2)


def test_another_number_of_processes_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = {"steps": 3, "seed": 0}
    assert bind(tmp_path / "out", identity, lambda: 3) == 3
    assert bind(tmp_path / "out", identity, lambda: 7) == 3
    assert bind(tmp_path / "out", {"steps": 5, "seed": 0}, lambda: 7, free=("steps",)) == 3
    with pytest.raises(OptionError, match="steps was 5 and is 3"):
        bind(tmp_path / "out", identity, lambda: 3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(OptionError, match="processes was 1 and is 2"):
            bind(tmp_path / "out", {"steps": 5, "seed": 0}, lambda: 3)


def test_a_run_that_unlearns_says_so(
    scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unlearnt = run(scenes, tmp_path / "out", steps=4, learning_rate=0.05, warmup=0.0)
    before, after = unlearnt.before["ap"], unlearnt.after["ap"]
    assert after < before
    said = f"ap was {before:.3f} before the first step and is {after:.3f}"
    assert said in caplog.text and "Take a lower --learning-rate" in caplog.text
    caplog.clear()
    kept = run(scenes, tmp_path / "kept", steps=1, learning_rate=1e-12, eval_limit=1)
    assert kept.after == kept.before  # of the same pictures
    assert "--learning-rate" not in caplog.text


def test_a_loss_that_is_no_number_names_its_pictures(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the loss is nan; lower learning_rate, or look at .*jpg"):
        run(scenes, tmp_path / "out", steps=30, learning_rate=1e9)


def test_nothing_to_learn_from(scenes: Path, tmp_path: Path) -> None:
    content = json.loads((scenes / "train" / "instances.json").read_text(encoding="utf-8"))
    path = scenes / "train" / "none.json.txt"
    path.write_text(json.dumps(content | {"annotations": []}), encoding="utf-8")
    empty = tmp_path / "empty" / "instances.json"
    empty.parent.mkdir()
    empty.write_bytes(path.read_bytes())
    path.unlink()
    for image in (scenes / "train" / "images").iterdir():
        (empty.parent / "images").mkdir(exist_ok=True)
        (empty.parent / "images" / image.name).write_bytes(image.read_bytes())
    with pytest.raises(DataError, match="not one of . pictures has an object"):
        run(scenes, tmp_path / "out", steps=2, data=empty)


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from pgvision.training.finetuning import FinetuneSettings, finetune
from pgvision.training.finetuning.settings import DataPlaces
sizes = {"steps": 9, "batch_size": 2, "eval_limit": 1, "eval_every": 3}
settings = FinetuneSettings(model="tiny", ema=0.9, **sizes)
finetune(DataPlaces(data=Path(sys.argv[1])), sys.argv[2], settings, device="cpu")
"""


def start(scenes: Path, out: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", SCRIPT, str(scenes), str(out)]
    with out.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)


def wait_for(path: Path, out: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None, "ended before it could be stopped"
        assert time.monotonic() < deadline, f"no {path} in {out}"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(
    scenes: Path, tmp_path: Path, how: signal.Signals
) -> None:
    whole = tmp_path / "whole"
    assert start(scenes, whole).wait(300) == 0
    out = tmp_path / "stopped"
    process = start(scenes, out)
    wait_for(out / "checkpoint-3", out, process)
    time.sleep(0.4)  # somewhere in or behind the saving
    os.kill(process.pid, how)
    process.wait(300)
    if how == signal.SIGTERM:
        assert process.returncode == 0 and not (out / "config.json").exists()
    assert start(scenes, out).wait(300) == 0
    assert losses(out) == losses(whole) and len(losses(whole)) == 9
    one, other = (load(folder).model.state_dict() for folder in (whole, out))
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=0, atol=0)


@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoint_before(scenes: Path, tmp_path: Path) -> None:
    """No file may grow beyond 1 MB from step 4 on: the system refuses the next state."""
    out = tmp_path / "out"
    process = start(scenes, out)
    wait_for(out / "checkpoint-3" / "whole", out, process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (2**20, 2**20))
    assert process.wait(300) != 0
    told = out.with_suffix(".log").read_text(encoding="utf-8")
    assert "cannot be written" in told and "make room" in told and "CheckpointError" in told
    assert not (out / "checkpoint-6" / "whole").exists()
    assert not (out / "config.json").exists()
    assert start(scenes, out).wait(300) == 0
    whole = tmp_path / "whole"
    assert start(scenes, whole).wait(300) == 0
    assert losses(out) == losses(whole) and len(losses(whole)) == 9


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(scenes: Path, tmp_path: Path) -> None:
    """With the same global batch: each takes half of it, and gradients are averaged (gloo)."""
    shared = ["--steps", "4", "--eval-limit", "1", "--eval-every", "9", "--device", "cpu"]
    shared += ["--model", "tiny", "--dtype", "float32", "--ema", "0.5"]
    python = [sys.executable, "-m"]
    launchers = {
        "one": python,
        "torchrun": [*python, "torch.distributed.run", "--nproc-per-node", "2", "-m"],
        "accelerate": [
            *(*python, "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
            *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m"),
        ],
    }
    curves = {}
    for name, start_ in launchers.items():
        command = [*start_, "pgvision.training", str(scenes), *shared, "--out", tmp_path / name]
        command += ["--batch-size", "4" if name == "one" else "2"]
        subprocess.run(command, check=True, capture_output=True, timeout=400)
        curves[name] = losses(tmp_path / name)
    one = list(curves.pop("one").values())
    for name, curve in curves.items():
        assert list(curve) == [1, 2, 3, 4]
        np.testing.assert_allclose(list(curve.values()), one, rtol=1e-6)
        assert find_checkpoint(tmp_path / name).kind == "tiny"


def test_launchers_that_do_not_fit_are_refused_by_name(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(OptionError, match="FSDP: one process has none to share with"):
        run(scenes, tmp_path / "out", steps=1)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(OptionError, match="DeepSpeed"):
        run(scenes, tmp_path / "out", steps=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_pictures_are_learnt_by_heart(scenes: Path, tmp_path: Path) -> None:
    """Boxes and masks of two pictures, exactly: x is x, y is y, and codes are in their order."""
    data = read_splits(scenes)["valid"]
    file = scenes / "valid" / "instances.json"
    report = run(
        scenes, tmp_path / "out", task="segment", steps=200, augment=False, negatives=0.0,
        data=file, valid=file, learning_rate=1e-3, loc_sigma=0.0, eval_every=999,
    )  # fmt: skip
    assert report.finished
    segmenter = Segmenter(list(data.classes), model=tmp_path / "out")
    hits, count = 0, 0
    for record in data.images:
        result = segmenter(read_image(record.path))
        for item in record.objects:
            same = np.array(result.labels) == data.names[item.category_id]
            gaps = np.abs(result.xyxy[same] - np.array(item.xyxy)).max(-1, initial=0)
            hits += bool(len(gaps) and gaps.min() < 1.5)  # a bin is 0.31 pixels here
            count += 1
    assert hits / count > 0.8
    assert report.after["ap50"] > 0.8


def test_eyes_learn_slower(scenes: Path, tmp_path: Path) -> None:
    """At the first step Adam moves each weight by its rate: the tower's by its share."""
    run(
        scenes, tmp_path / "out", steps=1, warmup=0.0, learning_rate=1e-4, vision_share=0.1,
        eval_every=9,
    )  # fmt: skip
    own, moved = load("tiny").model.state_dict(), load(tmp_path / "out").model.state_dict()
    tower = "model.vision_tower.encoder.layers.0.mlp.fc1.weight"
    language = "model.language_model.layers.0.mlp.up_proj.weight"
    for name, step in ((tower, 1e-5), (language, 1e-4)):
        gap = (moved[name].float() - own[name].float()).abs()
        assert float(gap.quantile(0.9)) == pytest.approx(step, rel=0.05)
