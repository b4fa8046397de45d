"""Whole runs: what comes out, what a stopped one resumes with, and what is refused."""

import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest
import torch
import yaml
from transformers import AutoProcessor, PaliGemmaForConditionalGeneration, TrainerCallback

from pgvision.datasets import read_splits
from pgvision.errors import DataError, DependencyError, OptionError
from pgvision.evaluation import Calibration
from pgvision.images import read_image
from pgvision.runtime import find_checkpoint, load
from pgvision.tasks import Captioner, Detector, Segmenter
from pgvision.training import DataSource, train
from pgvision.training.evaluation import validate

SMALL = {"batch_size": 2, "eval_limit": 1, "model": "tiny", "device": "cpu", "eval_every": 99}
peft_warns = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def run(data, out, **options):
    return train(data, out, progress=False, **{**SMALL, **options})


def results(folder):
    lines = (folder / "results.csv").read_text().splitlines()
    names = lines[0].split(",")
    return [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]


def losses(folder):
    return {int(row["step"]): float(row["loss"]) for row in results(folder) if row["loss"]}


def image_of(scenes):
    return read_image(next((scenes / "valid" / "images").iterdir()))


def test_what_comes_out_is_a_checkpoint_with_its_figures(scenes, tmp_path, caplog):
    out = tmp_path / "out"
    with caplog.at_level("INFO"):
        report = run(scenes, out, steps=3, eval_limit=2)
    assert report.finished and report.steps == 3 and set(report.before) == set(report.after)
    assert set(report.after) >= {"ap", "ap50", "ar", "miou", "f1", "mean f1", "loss"}
    # What was read and how long it takes comes first.
    assert "training: 6 images" in caplog.text and "validation: 2 images" in caplog.text
    assert "about" in caplog.text and "3 steps of" in caplog.text
    # The card has front matter for the hub, figures, names and credits.
    card = (out / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert front["pipeline_tag"] == "object-detection" and front["license"] == "apache-2.0"
    for text in ("codec of masks: tiny", "helmet, head", "before   after", "pgvision rendered"):
        assert text in card
    for name in ("train_samples.jpg", "predictions.jpg"):
        assert cv2.imread(str(out / name)).shape[1] == 1280
    assert (out / "results.png").stat().st_size > 1000 and len(losses(out)) == 3
    # The best weights load in pgvision and in plain transformers; states are gone.
    fitted = Calibration.load(out / "calibration.json")
    result = Detector("helmet", model=out, conf=0.0)(image_of(scenes))
    asked = Detector("helmet", model=out, conf=0.0, calibrate=out / "calibration.json")(
        image_of(scenes)
    )
    np.testing.assert_allclose(asked.scores, fitted.apply(result.scores), rtol=1e-6)
    model = PaliGemmaForConditionalGeneration.from_pretrained(out)
    assert AutoProcessor.from_pretrained(out).image_processor.size["height"] == 160
    own = load("tiny").model.state_dict()
    moved = [name for name, one in model.state_dict().items() if not torch.equal(one, own[name])]
    assert len(moved) > 100 and not list(out.glob("checkpoint-*"))
    # The same call again returns the report; its YAML file repeats the run.
    again = run(scenes, out, steps=3, eval_limit=2)
    assert again.after == report.after and again.folder == out
    other = tmp_path / "other"
    repeated = train(None, other, config=out / "run.yaml", device="cpu", progress=False)
    assert losses(other) == losses(out) and repeated.after == report.after


@pytest.mark.parametrize("name, option", [("peft", "lora"), ("bitsandbytes", "four_bit")])
def test_a_missing_package_is_refused_before_data_are_read(name, option, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DependencyError, match=f"{option} needs {name}"):
        run("no such data", tmp_path / "out", lora=8, four_bit=option == "four_bit")
    assert not (tmp_path / "out").exists()


@peft_warns
def test_an_adapter_is_a_checkpoint(scenes, tmp_path):
    options = {"steps": 2, "lora": 4, "learning_rate": 1e-2}
    run(scenes, tmp_path / "merged", **options)
    run(scenes, tmp_path / "apart", **options, keep_adapter=True)
    settings = json.loads((tmp_path / "apart" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "tiny"  # not a path of this machine
    assert not (tmp_path / "apart" / "model.safetensors").exists()
    weights = [load(tmp_path / name).model.state_dict() for name in ("merged", "apart")]
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(weights[0][name], load("tiny").model.state_dict()[name])
    torch.testing.assert_close(weights[1][name], weights[0][name], rtol=1e-4, atol=1e-5)
    run(scenes, tmp_path / "further", steps=1, model=str(tmp_path / "apart"))
    assert "\nlicense: apache-2.0\n" in (tmp_path / "further" / "README.md").read_text()
    with pytest.raises(OptionError, match="is an adapter itself"):
        run(scenes, tmp_path / "no", steps=1, model=str(tmp_path / "apart"), lora=2,
            keep_adapter=True)  # fmt: skip


def test_every_task_has_its_figures(scenes, tmp_path):
    segment = run(scenes, tmp_path / "s", steps=1, task="segment")
    assert "ap50" in segment.after
    Segmenter("helmet", model=tmp_path / "s")(image_of(scenes))
    texts = scenes / "train" / "examples.jsonl"
    caption = run(texts, tmp_path / "c", steps=1, task="caption")
    assert list(caption.after)[0] == "cider" and "loss" in caption.after
    assert Captioner(model=tmp_path / "c")(image_of(scenes)).text
    both = run([DataSource(data=scenes, weight=2.0), texts], tmp_path / "m", steps=2, task="mix")
    assert list(both.after)[0] == "mean" and f"detect {scenes.name}: ap" in both.after
    assert find_checkpoint(tmp_path / "m").about.endswith(
        f"detect on {scenes.name}, ask on examples.jsonl"
    )


def test_a_closed_set_is_asked_as_it_was_trained(scenes, tmp_path):
    run(scenes, tmp_path / "out", steps=2, closed_set=True, max_objects=12)
    closed = find_checkpoint(tmp_path / "out").closed_set
    assert closed.num_objects == 12 and "helmet" in closed.classes
    detector = Detector(["helmet", "head"], model=tmp_path / "out", nms=1.0, conf=0.0)
    assert detector(image_of(scenes)).raw_text.count(" ; ") == 11
    with pytest.raises(OptionError, match="closed_set with lora"):
        run(scenes, tmp_path / "no", steps=1, closed_set=True, lora=2)


def test_a_class_can_be_asked_for_by_its_own_name_and_by_the_trained_one(scenes, tmp_path):
    report = run(scenes, tmp_path / "out", steps=1, rename={"helmet": "hat"})
    card = find_checkpoint(tmp_path / "out")
    assert card.synonyms["hat"] == ("helmet",) and "hat" in card.classes
    assert "ap50 helmet" in report.after


def test_other_settings_data_or_folders_are_refused_by_name(scenes, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").touch()
    with pytest.raises(OptionError, match="is not empty and contains no run"):
        run(scenes, out, steps=2)
    held = tmp_path / "held"
    run(scenes, held, steps=2, keep_states=True)
    record = json.loads((held / "run.json").read_text())
    del record["report"]  # as if it had been stopped
    (held / "run.json").write_text(json.dumps(record))
    with pytest.raises(OptionError, match="learning_rate was None and is 0.1"):
        run(scenes, held, steps=2, learning_rate=0.1)
    with pytest.raises(OptionError, match="data was '"):
        run(scenes / "train" / "instances.json", held, steps=2)
    longer = run(scenes, held, steps=3, batch_size=1, accumulation=2, eval_limit=2)
    assert longer.finished and longer.steps == 3
    for path in held.glob("checkpoint-*"):
        path.rename(path.with_name("gone"))
    (held / "run.json").write_text(json.dumps(record))
    run(scenes, held, steps=1, learning_rate=0.01)  # nothing of the first run is left


def reopened(out, **entries):
    """Let a finished run look as if it had been killed; its states are kept or not."""
    record = json.loads((out / "run.json").read_text()) | entries
    del record["report"]
    (out / "run.json").write_text(json.dumps(record))


def test_a_run_that_was_killed_while_it_wrote_its_result_has_no_further_step(scenes, tmp_path):
    out = tmp_path / "out"
    first = run(scenes, out, steps=2, eval_every=1, keep_states=True)
    before = losses(out), (out / "model.safetensors").read_bytes()
    reopened(out)
    (out / "checkpoint-2-mine").mkdir()
    again = run(scenes, out, steps=2, eval_every=1)
    assert again.steps == 2 and again.after == first.after and again.best_step == first.best_step
    assert (losses(out), (out / "model.safetensors").read_bytes()) == before
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-2-mine"]


def test_the_start_is_measured_again_where_the_validation_changes(scenes, tmp_path):
    """Before was a figure of one image, after of two."""
    out = tmp_path / "out"
    run(scenes, out, steps=1, keep_states=True)
    reopened(out)
    again = run(scenes, out, steps=1, eval_limit=2)
    assert again.before == run(scenes, tmp_path / "new", steps=1, eval_limit=2).before


def test_names_of_a_run_without_a_state_are_forgotten(scenes, tmp_path):
    out = tmp_path / "out"
    run(scenes, out, steps=1)
    reopened(out, names={"helmet": "truck"})  # matched by an earlier call, which took no step
    run(scenes, out, steps=1, match_names=False)
    assert "helmet" not in find_checkpoint(out).synonyms.get("truck", ())


def test_memory_that_runs_out_in_the_optimizer_is_named(scenes, tmp_path):
    class Full(TrainerCallback):
        def on_optimizer_step(self, *args, **kwargs):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OptionError, match="out of memory with batch_size=2: use batch_size=1"):
        run(scenes, tmp_path / "out", steps=1, callbacks=[Full()])


def test_a_repository_that_cannot_be_made_is_refused_before_the_first_step(scenes, tmp_path):
    """The tests have no network: the upload failed after the whole run, and was not tried again."""
    out = tmp_path / "out"
    with pytest.raises(
        OptionError, match="push_to_hub: me/helmets cannot be made: .*hf auth login"
    ):
        run(scenes, out, steps=1, push_to_hub="me/helmets")
    assert not (out / "run.json").exists()
    run(scenes, out, steps=1)
    with pytest.raises(OptionError, match="me/helmets cannot be filled from .*, which is complete"):
        run(scenes, out, steps=1, push_to_hub="me/helmets")


def test_a_run_that_unlearns_says_so_by_class(scenes, tmp_path, caplog):
    report = run(scenes, tmp_path / "out", steps=4, learning_rate=0.05, warmup=0.0, eval_limit=2)
    assert report.worse and report.after["ap"] < report.before["ap"]
    assert f"ap was {report.before['ap']:.3f} before the first step" in caplog.text
    assert "worse" in report.table()


def test_weights_are_validated_once(scenes, tmp_path, monkeypatch):
    validated = []

    def counted(*given, **how):
        validated.append(validate(*given, **how))
        return validated[-1]

    monkeypatch.setattr("pgvision.training.run.validate", counted)
    report = run(scenes, tmp_path / "out", steps=2, eval_every=1)
    assert len(validated) == 3 + (report.best_step != 2)  # the start, each step, the best
    best = next(row for row in results(tmp_path / "out") if row["step"] == f"{report.best_step}")
    assert float(best["eval_ap"]) == pytest.approx(report.after["ap"])
    unlearnt = run(scenes, tmp_path / "worse", steps=2, eval_every=1, learning_rate=0.3, warmup=0.0)
    assert unlearnt.best_step == 1 and len(validated) == 3 + (report.best_step != 2) + 4


def test_a_loss_that_is_not_finite_names_its_images(scenes, tmp_path):
    with pytest.raises(DataError, match=r"the loss is nan; lower learning_rate, or look at .*jpg"):
        run(scenes, tmp_path / "out", steps=30, learning_rate=1e9)


def test_a_misspelt_option_is_refused_with_the_nearest(scenes, tmp_path):
    with pytest.raises(OptionError, match="stepz: train has no such option; did you mean steps="):
        train(scenes, tmp_path / "out", stepz=3)


HUB = """
import json, os, sys, threading
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

class Hub(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        url = os.environ["HF_ENDPOINT"] + "/me/helmets"
        answer = {"url": url}
        if "preupload" in self.path:
            answer = {"files": [{**one, "uploadMode": "regular", "shouldIgnore": False}
                                for one in json.loads(body)["files"]]}
        elif "commit" in self.path:
            oid = "0" * 40
            answer = {"commitUrl": f"{url}/commit/{oid}", "commitOid": oid, "success": True}
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    content = b64decode(line["value"]["content"])
                    print(line["value"]["path"], len(content), flush=True)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())
    do_GET = do_POST
    def log_message(self, *args): pass

server = HTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_TOKEN": "hf_x"}
os.environ.pop("HF_HUB_OFFLINE", None)
from pgvision.training.folder import push
push(Path(sys.argv[1]), "me/helmets")
"""


def test_an_upload_has_no_images_and_no_paths_of_the_user(tmp_path):
    files = ("model.safetensors", "README.md", "pgvision.json", "results.png")
    private = ("run.json", "run.yaml", "predictions.jpg", "train_samples.jpg", "checkpoint-2/a.pt")
    for name in (*files, *private):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    command = [sys.executable, "-c", HUB, tmp_path]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    assert sorted(shown.stdout.splitlines()) == sorted(f"{name} {len(name)}" for name in files)


def test_a_run_works_outside_the_main_thread(scenes, tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(run(scenes, tmp_path / "out", steps=1)))
    thread.start()
    thread.join()
    assert found and found[0].finished


SCRIPT = """
import sys, logging
import torch
torch.set_num_threads(1)
from pgvision.training import train
train(sys.argv[1], sys.argv[2], model="tiny", steps=9, batch_size=2, eval_limit=1, eval_every=3,
      device="cpu", keep_states=True)
"""


def start(scenes, out):
    command = [sys.executable, "-c", SCRIPT, str(scenes), str(out)]
    with out.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)


def wait_for(path, process):
    deadline = time.monotonic() + 400
    while not path.exists():
        assert process.poll() is None, "ended before it could be stopped"
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(scenes, tmp_path_factory):
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert start(scenes, out).wait(600) == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_resumes_as_if_nothing_had_happened(scenes, tmp_path, whole, how):
    out, moved = tmp_path / "stopped", tmp_path / "moved"
    process = start(scenes, out)
    wait_for(out / "checkpoint-3" / "clock.txt", process)
    os.kill(process.pid, how)
    process.wait(600)
    assert not (out / "config.json").exists()
    if how != signal.SIGKILL:
        assert process.returncode == 0
    pathlib.Path(moved).symlink_to(scenes)  # the same data elsewhere
    assert start(moved, out).wait(600) == 0
    assert losses(out) == losses(whole) and len(losses(whole)) == 9
    one, other = (load(folder).model.state_dict() for folder in (whole, out))
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=0, atol=0)


@pytest.mark.slow
def test_a_full_disk_leaves_the_previous_checkpoint(scenes, tmp_path, whole):
    """No file may grow beyond 1 MB from step 4 on: the system refuses the next checkpoint."""
    out = tmp_path / "out"
    process = start(scenes, out)
    wait_for(out / "checkpoint-3" / "clock.txt", process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (2**20, 2**20))
    assert process.wait(600) != 0
    said = out.with_suffix(".log").read_text(encoding="utf-8")
    assert "cannot be written" in said and "make room" in said and "CheckpointError" in said
    assert start(scenes, out).wait(600) == 0
    assert losses(out) == losses(whole)


@pytest.mark.slow
def test_two_processes_learn_and_measure_what_one_does(scenes, tmp_path):
    """With the same global batch: each takes half of it, and gradients are averaged (gloo)."""
    shared = ["--steps", "4", "--eval-every", "9", "--device", "cpu", "--model", "tiny"]
    python = [sys.executable, "-m"]
    launchers = {
        "one": python,
        "torchrun": [*python, "torch.distributed.run", "--nproc-per-node", "2", "-m"],
    }
    for name, launcher in launchers.items():
        command = [*launcher, "pgvision.training", str(scenes), *shared, "--out", tmp_path / name]
        command += ["--batch-size", "4" if name == "one" else "2"]
        subprocess.run(command, check=True, capture_output=True, timeout=900)
    one, two = (losses(tmp_path / name) for name in launchers)
    assert list(two) == [1, 2, 3, 4]
    np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=1e-3)
    before = [
        json.loads((tmp_path / name / "run.json").read_text())["before"] for name in launchers
    ]
    assert before[0]["ap"] == pytest.approx(before[1]["ap"], abs=1e-4)


@pytest.mark.slow
def test_two_images_are_learnt_by_heart(scenes, tmp_path):
    """Boxes and masks of two images, exactly: x is x, y is y, and codes are in their order."""
    data = read_splits(scenes)["valid"]
    file = scenes / "valid" / "instances.json"
    run(
        DataSource(data=file, valid=file), tmp_path / "out", task="segment", steps=200,
        augment=False, negatives=0.0, learning_rate=1e-3, loc_sigma=0.0, eval_every=999,
    )  # fmt: skip
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
