"""Loading: what works, what is shared, and what each failure says."""

import json
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoProcessor,
    PaliGemmaForConditionalGeneration,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from pgvision.errors import CheckpointError, DependencyError, OptionError
from pgvision.runtime import Engine, Picture, Request, find_checkpoint, load, open_engine
from pgvision.runtime.loading import explain, load_apart


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail at once where the hub would be asked, as a machine without network does."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def folder(engine: Engine, tmp_path: Path) -> Path:
    """A copy of a good checkpoint, to be broken."""
    return Path(shutil.copytree(engine.card.location, tmp_path / "copy"))


def test_one_load_per_process(engine: Engine) -> None:
    again = load(engine.card.location, dtype="float32", device="cpu")
    assert again is engine
    assert load(engine.card.location, dtype="bfloat16", device="cpu") is not engine


def test_the_log_says_in_one_line_what_was_loaded(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    card = {"kind": "pt", "codec": "tiny", "about": "good for helmets"}
    (folder / "pgvision.json").write_text(json.dumps(card))
    with caplog.at_level(logging.INFO, "pgvision"):
        engine = load(folder)
    (record,) = [r for r in caplog.records if r.name.startswith("pgvision")]
    assert "good for helmets" in record.getMessage()
    assert (engine.card.kind, engine.card.codec) == ("pt", "tiny")


def test_an_adapter_without_peft_is_refused_before_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "tiny"}')
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr("pgvision.runtime.loading._read_model", None)
    with pytest.raises(DependencyError, match="needs peft"):
        load(tmp_path)


def test_devices_that_are_not_there_and_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    for device in ("cuda:1", "cpu:1"):
        with pytest.raises(OptionError, match=f"'{device}' is not on this machine"):
            load("tiny", device=device)
    with pytest.raises(OptionError, match="is a server"):
        load("http://127.0.0.1:9", device="cpu")


def test_environment_names_the_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGVISION_MODEL", str(folder))
    assert find_checkpoint().location == str(folder)
    assert find_checkpoint("tiny").kind == "tiny"


@pytest.mark.parametrize(
    ("hub_id", "kind"),
    [
        ("google/paligemma-3b-pt-224", "pt"),
        ("google/paligemma2-10b-mix-448", "mix"),
        ("google/paligemma-3b-ft-refcoco-seg-448", "refcoco-seg"),
        ("someone/my-helmets", "ft"),
        ("me/paligemma2-helmets-seg", "ft"),
        ("me/paligemma-mix", "mix"),
        ("me/mixture-of-optics", "ft"),
    ],
)
def test_hub_ids_tell_their_kind(hub_id: str, kind: str) -> None:
    card = find_checkpoint(hub_id)
    assert (card.kind, card.codec, card.is_local) == (kind, "google", False)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("models--google--paligemma2-3b-mix-448/snapshots/0a1b", "mix"),
        ("models--me--helmets/snapshots/pt-1", "ft"),
        ("mix/paligemma", "ft"),
        ("paligemma-3b-pt-224/", "pt"),
        ("google-paligemma-3b-ft-refcoco-seg-448", "refcoco-seg"),
    ],
)
def test_folders_tell_their_kind(folder: Path, path: str, kind: str) -> None:
    made = folder.parent / path
    made.mkdir(parents=True)
    shutil.copy(folder / "config.json", made)
    assert find_checkpoint(made).kind == kind
    assert find_checkpoint(made, kind="pt").kind == "pt"
    with pytest.raises(OptionError, match=r"kind.*mix.*large"):
        find_checkpoint(made, kind="large")


def test_a_card_says_what_was_taught(folder: Path) -> None:
    plain = find_checkpoint(folder)
    assert (plain.classes, plain.questions, plain.max_new_tokens, plain.notes) == (None,) * 4
    card = {"classes": ["helmet"], "questions": ["how many?"], "max_new_tokens": 9, "notes": "n"}
    (folder / "pgvision.json").write_text(json.dumps(card))
    found = find_checkpoint(folder)
    assert (found.classes, found.questions) == (("helmet",), ("how many?",))
    assert (found.max_new_tokens, found.notes) == (9, "n")
    for wrong in ({"classes": "helmet"}, {"questions": [1]}, {"max_new_tokens": True}):
        (folder / "pgvision.json").write_text(json.dumps(wrong))
        with pytest.raises(CheckpointError, match=next(iter(wrong))):
            find_checkpoint(folder)


def test_memory_that_does_not_suffice_is_called_that() -> None:
    card = find_checkpoint("google/paligemma2-28b-mix-224")
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    for error in (caught.value, torch.OutOfMemoryError("CUDA out of memory."), MemoryError()):
        told = explain(error, card)
        assert isinstance(told, CheckpointError)
        assert "does not fit into memory" in str(told)
        assert "a smaller checkpoint" in str(told)
        assert "fetch it again" not in str(told)


def test_only_the_capped_language_model_runs_eager(engine: Engine) -> None:
    is_capped = engine.model.config.text_config.model_type == "gemma2"
    parts = engine.model.model
    assert parts.vision_tower.config._attn_implementation == "sdpa"
    assert (parts.language_model.config._attn_implementation == "eager") == is_capped


def test_pictures_go_through_pillow_whatever_is_installed(engine: Engine) -> None:
    # torchvision's twin is called SiglipImageProcessor and resizes to other pixels.
    assert type(engine.processor.image_processor) is SiglipImageProcessorPil


@pytest.mark.parametrize("text", ["<bos>detect helmet ; head\n", "ü 漢 \t x", "<loc0007><image>"])
def test_the_tokenizer_is_the_checkpoints_own(engine: Engine, text: str) -> None:
    own = AutoProcessor.from_pretrained(engine.card.location).tokenizer
    ours = engine.processor.tokenizer
    ids = own(text, add_special_tokens=False)["input_ids"]
    assert ours(text, add_special_tokens=False)["input_ids"] == ids
    assert ours.decode(ids) == own.decode(ids)
    assert ours.convert_ids_to_tokens(ids) == own.convert_ids_to_tokens(ids)
    assert len(ours) == len(own)


def test_threads_are_a_whole_number_above_zero() -> None:
    with pytest.raises(OptionError, match="threads"):
        load("tiny", threads=0)


def test_no_network_says_what_to_do() -> None:
    with pytest.raises(CheckpointError, match=r"cannot be reached.*tiny"):
        load("google/paligemma2-3b-mix-224")


@pytest.mark.parametrize("name", ["no/such/folder", "nothing", "./missing"])
def test_a_missing_path_is_named(name: str) -> None:
    with pytest.raises(CheckpointError, match=name):
        load(name)


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a file"):
        load(path)


def test_an_empty_folder_lacks_its_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(tmp_path)


def test_a_half_downloaded_file_is_told(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="half downloaded"):
        load(folder)


def test_missing_weights_are_told(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=str(folder)):
        load(folder)


def test_a_broken_card_is_told(folder: Path) -> None:
    (folder / "pgvision.json").write_text('{"kind": ')
    with pytest.raises(CheckpointError, match=r"pgvision\.json"):
        load(folder)
    (folder / "pgvision.json").write_text('{"kind": "large"}')
    with pytest.raises(CheckpointError, match="large"):
        load(folder)


def test_another_model_is_refused(tmp_path: Path) -> None:
    SiglipVisionConfig(hidden_size=8).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"siglip.*expected PaliGemma"):
        load(tmp_path)


def test_a_tokenizer_that_splits_loc_tokens_is_refused(folder: Path) -> None:
    path = folder / "tokenizer.json"
    table = json.loads(path.read_text())
    named = {token["content"]: token for token in table["added_tokens"]}
    # The processor adds the tokens that are missing, out of their run: a wrong id for each.
    table["added_tokens"].remove(named["<loc0007>"])
    path.write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match=r"<loc0007>|<loc0008>"):
        load(folder)


@pytest.mark.parametrize(
    "change", [{"image_seq_length": None}, {"size": {"height": 320, "width": 320}}]
)
def test_a_processor_of_another_resolution_is_refused(
    folder: Path, change: dict[str, object]
) -> None:
    path = folder / "processor_config.json"
    content = json.loads(path.read_text())
    content["image_processor"] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="expected 100 image tokens of 160 pixels"):
        load(folder)


def test_image_settings_that_are_not_written_have_their_defaults(folder: Path) -> None:
    path = folder / "processor_config.json"
    content = json.loads(path.read_text())
    del content["image_processor"]["resample"]
    path.write_text(json.dumps(content))
    engine = open_engine(folder, device="cpu")
    assert "torch" in engine.backend.description
    picture = Picture(np.zeros((8, 8, 3), np.uint8))
    assert len(engine.encode([picture])[0]) == 100


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "tpu9"}, "device"),
        ({"device": "cuda:7"}, "cpu"),
        ({"dtype": "int4"}, "bfloat16"),
    ],
)
def test_devices_and_dtypes_are_checked(options: dict[str, str], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        load("tiny", **options)


def test_one_file_written_over_several_counts(folder: Path) -> None:
    """transformers deletes the parts and leaves their index."""
    model = load_apart(folder, dtype="float32", device="cpu").model
    for size in ("200KB", "1GB"):
        model.save_pretrained(folder, max_shard_size=size)
    assert (folder / "model.safetensors.index.json").is_file()
    assert len(list(folder.glob("*.safetensors"))) == 1
    for engine in ("torch", "onnx"):
        assert open_engine(folder, engine=engine).num_image_tokens == 100


# peft asks transformers for an attribute that transformers has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize(
    "parts",
    [
        {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["multi_modal_projector"]},
        # Both have the same weights, and the adapter changes one of them.
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["lm_head"]},
    ],
)
def test_a_lora_adapter_loads_on_its_base(
    folder: Path, tmp_path: Path, parts: dict[str, list[str]], is_old: bool
) -> None:
    base = PaliGemmaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    base.config.text_config.final_logit_softcapping = None  # see OutputHead
    config = LoraConfig(r=4, init_lora_weights=False, **parts)
    torch.manual_seed(1)
    adapted = get_peft_model(base, config).eval()
    adapter = tmp_path / "adapter"
    adapted.save_pretrained(adapter, save_embedding_layers=is_old)
    if is_old:  # as transformers before 4.52 named its modules
        weights = load_file(adapter / "adapter_model.safetensors")
        older = {
            "model.model.language_model.": "model.language_model.model.",
            "model.model.vision_tower.": "model.vision_tower.vision_model.",
            "model.model.multi_modal_projector.": "model.multi_modal_projector.",
            "base_model.model.lm_head.": "base_model.model.language_model.lm_head.",
        }
        for new, old in older.items():
            weights = {name.replace(new, old): value for name, value in weights.items()}
        save_file(weights, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = json.loads((adapter / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(folder)

    engine = load(adapter, dtype="float32")
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    request = Request(picture=Picture(image), prefix="ocr", max_new_tokens=4)
    ((_, answer),) = engine.generate([request])
    ((_, plain),) = load(folder, dtype="float32").generate([request])
    assert not np.allclose(answer.logprobs, plain.logprobs), "the adapter must change something"

    pixels = engine.processor.image_processor(
        images=[np.ascontiguousarray(image[..., ::-1])], return_tensors="pt"
    )["pixel_values"]
    ids = torch.tensor([engine.input_ids("ocr")])
    with torch.inference_mode():
        logits = adapted(
            input_ids=ids,
            pixel_values=pixels,
            attention_mask=torch.ones_like(ids),
            token_type_ids=torch.zeros_like(ids),
        ).logits
    expected = logits[0, -1].log_softmax(-1)[answer.token_ids[0]]
    assert answer.logprobs[0] == pytest.approx(float(expected), abs=1e-4)
