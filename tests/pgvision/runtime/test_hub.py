"""The hub: its cache is read as what it holds, and what cannot be reached is told at once."""

import json
import logging
import shutil
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from transformers import PaliGemmaForConditionalGeneration

from pgvision import samples
from pgvision.errors import CheckpointError, CodecError, GatedCheckpointError
from pgvision.hub import hub_if_it_answers
from pgvision.runtime import Engine, find_checkpoint, load, unload
from pgvision.runtime.checkpoints import TINY_FOLDER
from pgvision.runtime.exporting import export_checkpoint
from pgvision.tasks import Segmenter
from pgvision.training import train
from vqvae import MaskCodec


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(cache: Path, repository: str, source: str | Path, revision: str = "main") -> Path:
    """Put a folder into the hub's cache, as a download would leave it."""
    home = cache / f"models--{repository.replace('/', '--')}"
    commit = f"{len(revision):040x}"
    shutil.copytree(source, home / "snapshots" / commit)
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / revision).write_text(commit)
    return home / "snapshots" / commit


@pytest.fixture
def closed_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that refuses: a port on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("no_proxy", "localhost")  # names no proxy


@pytest.mark.usefixtures("closed_port", "cache")
def test_an_unreachable_hub_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    started = time.perf_counter()
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(CheckpointError, match=r"cannot be reached.*tiny"),
    ):
        load("google/paligemma2-3b-mix-224")
    assert time.perf_counter() - started < 2.0
    assert not [r for r in caplog.records if "etry" in r.getMessage()]
    assert not constants.HF_HUB_OFFLINE, "others may still ask"


@pytest.mark.usefixtures("closed_port", "cache")
def test_a_codec_that_cannot_be_fetched_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGVISION_CODEC_GOOGLE", raising=False)
    started = time.perf_counter()
    with pytest.raises(CodecError, match="could not be downloaded"):
        MaskCodec.load("google")
    assert time.perf_counter() - started < 2.0


@pytest.mark.usefixtures("closed_port")
def test_the_cache_serves_while_the_hub_does_not(engine: Engine, cache: Path) -> None:
    folder = put(cache, "google/paligemma-3b-mix-224", engine.card.location)
    found = load("google/paligemma-3b-mix-224")
    assert found.card.kind == "mix"
    assert torch.equal(found.model.lm_head.weight, engine.model.lm_head.weight)
    with pytest.MonkeyPatch.context() as patch:  # loaded once: the hub is not waited for again
        patch.setattr("pgvision.hub._answers", None)
        assert load("google/paligemma-3b-mix-224") is found
    by_path = load(folder)  # as `snapshot_download` returns it
    assert by_path.card.kind == "mix"


def test_a_hub_that_answers_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        with hub_if_it_answers():
            assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    ("status", "code", "error", "words"),
    [
        (
            403,
            "GatedRepo",
            GatedCheckpointError,
            r"licence at https://huggingface.co/google/paligemma2-3b-mix-224, run `hf auth login`",
        ),
        (401, "RepoNotFound", CheckpointError, "not on the hub, or private"),
        (404, "RevisionNotFound", CheckpointError, "no such revision"),
    ],
)
@pytest.mark.usefixtures("cache")
def test_what_the_hub_refuses_is_told(
    status: int,
    code: str,
    error: type[CheckpointError],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that answers as the hub does: huggingface_hub itself reads its refusal."""

    class Refusing(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *args: object) -> None:
            """Nothing: the test says what it saw."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        with pytest.raises(error, match=words):
            load("google/paligemma2-3b-mix-224", revision="v1")
        server.shutdown()


def test_a_card_on_the_hub_counts(engine: Engine, cache: Path) -> None:
    folder = put(cache, "me/helmets", engine.card.location)
    card = {"kind": "pt", "codec": "tiny", "classes": ["helmet"], "max_new_tokens": 7}
    (folder / "pgvision.json").write_text(json.dumps(card))
    found = load("me/helmets")
    assert (found.card.kind, found.card.codec) == ("pt", "tiny")
    assert found.card.classes == ("helmet",)
    assert found.max_new_tokens == 7


def test_masks_are_of_the_codec_that_a_card_on_the_hub_names(cache: Path) -> None:
    """Its name alone would mean Google's codec, which draws nonsense from these codes."""
    put(cache, "me/site", TINY_FOLDER)
    assert Segmenter("helmet", model="me/site").codec.name == "tiny"


def test_masks_are_learnt_as_codes_of_the_codec_that_a_card_on_the_hub_names(
    cache: Path, tmp_path: Path
) -> None:
    put(cache, "me/site", TINY_FOLDER)
    options = {"task": "segment", "model": "me/site", "steps": 1, "batch_size": 1, "eval_limit": 1}
    report = train(samples.truth(), tmp_path / "run", device="cpu", progress=False, **options)
    assert report.steps == 1
    assert find_checkpoint(tmp_path / "run").codec == "tiny"


def test_an_export_keeps_the_card_of_the_hub(cache: Path, tmp_path: Path) -> None:
    put(cache, "me/vests", TINY_FOLDER)
    out = find_checkpoint(export_checkpoint("me/vests", tmp_path / "out"))
    bundled = find_checkpoint("tiny")
    assert out.classes == bundled.classes
    assert (out.synonyms, out.questions) == (bundled.synonyms, bundled.questions)


# peft asks transformers for an attribute that transformers has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_an_adapter_on_the_hub_loads_with_its_revision(
    engine: Engine, cache: Path, tmp_path: Path
) -> None:
    family = engine.model.config.text_config.model_type  # engines are kept by id and revision
    put(cache, "google/paligemma-3b-mix-224", engine.card.location, "bfloat16")
    base = PaliGemmaForConditionalGeneration.from_pretrained(engine.card.location)
    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = get_peft_model(base, settings)
    adapted.save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    content = json.loads(path.read_text())
    content |= {"base_model_name_or_path": "google/paligemma-3b-mix-224", "revision": "bfloat16"}
    path.write_text(json.dumps(content))
    put(cache, f"me/{family}", tmp_path / "adapter", "v2")

    found = load(f"me/{family}", revision="v2", dtype="float32")
    assert found.card.base == "google/paligemma-3b-mix-224"
    assert found.card.kind == "mix"
    merged = adapted.merge_and_unload().model.language_model.layers[0].self_attn.q_proj.weight
    ours = found.model.model.language_model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(ours, merged)
    with pytest.raises(CheckpointError):
        load(f"me/{family}", revision="v3")
    assert unload(f"me/{family}") == 1
