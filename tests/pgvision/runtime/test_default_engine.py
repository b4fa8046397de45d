"""The default engine on a CPU: ONNX Runtime straight from the checkpoint folder, without torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file

from pgvision import samples
from pgvision.errors import CheckpointError, OptionError, PromptError
from pgvision.runtime import Picture, Request, load, load_apart, open_engine
from pgvision.runtime.checkpoint_files import read_tensor_table
from pgvision.runtime.checkpoints import find_checkpoint
from pgvision.runtime.exporting import GRAPHS, export_checkpoint
from pgvision.runtime.gemma import rotary_frequencies
from pgvision.runtime.onnx_backend import OnnxBackend, why_unsupported
from pgvision.tokens import AnswerForm

TINY = Path(find_checkpoint("tiny").location)
FORM = AnswerForm("detect", ("helmet",))
IMAGES = [samples.load("site-04"), samples.load("site-05")]


def requests(**options: object) -> list[Request]:
    return [
        Request(picture=Picture(image), prefix=prefix, form=form, **options)
        for image in IMAGES
        for prefix, form in (("detect helmet", FORM), ("caption en", None))
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the bundled checkpoint, to be broken."""
    return Path(shutil.copytree(TINY, tmp_path / "copy"))


@pytest.mark.parametrize("model", ["tiny", "small"])
def test_a_detection_imports_neither_torch_nor_transformers(model: str) -> None:
    code = (
        "import sys\n"
        "from pgvision import Detector, samples\n"
        f"assert len(Detector('helmet', model='{model}')(samples.path('site-04')))\n"
        "print(sorted({'torch', 'transformers', 'onnx'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert ended.stdout.strip() == "[]"


def test_answers_are_those_of_torch() -> None:
    """Real weights: the same words, probabilities to rounding."""
    ours, theirs = open_engine("tiny"), load("tiny", dtype="float32", device="cpu")
    assert "ONNX Runtime" in ours.backend.description
    found, wanted = (dict(each.generate(requests())) for each in (ours, theirs))
    assert sum(answer.text.count("<loc") for answer in found.values()) >= 8
    for number, answer in found.items():
        assert answer.text == wanted[number].text
        assert answer.spans == wanted[number].spans
        np.testing.assert_allclose(answer.logprobs, wanted[number].logprobs, atol=1e-3)
        np.testing.assert_allclose(answer.loc_probs, wanted[number].loc_probs, atol=1e-3)


def test_larger_image_encoders_run_in_bfloat16_where_the_cpu_has_it() -> None:
    fast, exact = (open_engine("small", dtype=dtype).backend for dtype in (None, "float32"))
    has_bfloat16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert ("bfloat16" in fast.description) == has_bfloat16
    assert "bfloat16" not in exact.description
    assert "bfloat16" not in open_engine("tiny").backend.description
    found, wanted = (np.stack(each.encode(IMAGES)) for each in (fast, exact))
    error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    assert error < 0.03
    assert (error > 0) == has_bfloat16
    (alone,) = fast.encode(IMAGES[:1])
    # OpenVINO runs image by image: the same alone and in a batch. ONNX Runtime's products round.
    np.testing.assert_allclose(alone, found[0], rtol=0, atol=0 if has_bfloat16 else 1e-3)


@pytest.mark.parametrize("hw", [(1, 1), (3, 500), (224, 224), (301, 97)])
def test_pixels_are_those_of_siglips_processor(hw: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*hw, 3), dtype=np.uint8)
    wanted = load("tiny").processor.image_processor(
        images=[Image.fromarray(np.ascontiguousarray(image[..., ::-1]))], return_tensors="np"
    )["pixel_values"][0]
    found = OnnxBackend(TINY, threads=1)._pixels(image)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_of_any_type_are_read_where_they_are(tmp_path: Path, dtype: str) -> None:
    """An export: merged weights, graphs that ONNX's own checker takes, the same numbers."""
    engine, stored = load_apart("tiny", dtype=dtype, device="cpu"), tmp_path / "stored"
    engine.model.save_pretrained(stored)
    engine.processor.save_pretrained(stored)
    folder = export_checkpoint(stored, tmp_path / "out")
    short = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]
    assert {tensor.dtype for tensor in read_tensor_table(folder).values()} == {short}
    for name in GRAPHS:
        assert (folder / name).stat().st_size < 100_000
        onnx.checker.check_model(str(folder / name))
    exact = load(folder, dtype="float32", device="cpu")
    (request, *_) = requests()
    ((_, found),) = open_engine(folder).generate([request])
    ((_, wanted),) = exact.generate([request])
    assert found.text == wanted.text
    np.testing.assert_allclose(found.logprobs, wanted.logprobs, atol=1e-3)


def test_which_engine_runs_what(folder: Path) -> None:
    assert "ONNX" in open_engine(folder).backend.description
    assert "ONNX" in open_engine(folder, device="cpu", dtype="float32").backend.description
    for options in ({"engine": "torch"}, {"dtype": "bfloat16"}):
        assert "torch" in open_engine(folder, **options).backend.description
    with pytest.raises(OptionError, match=r"engine: .*copy.*dtype='bfloat16'"):
        open_engine(folder, engine="onnx", dtype="bfloat16")
    with pytest.raises(OptionError, match="expected one of auto, onnx, torch"):
        open_engine(folder, engine="openvino")
    for threads in (0, 1.5, True, "2"):
        with pytest.raises(OptionError, match="threads"):
            open_engine(folder, threads=threads)


@pytest.mark.parametrize(
    ("hidden", "library"), [(None, "torch"), ("0", "torch"), ("", "ONNX Runtime"), ("-1", "ONNX")]
)
def test_a_gpu_that_is_there_and_not_hidden_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: str | None, library: str
) -> None:
    """A container with the fourth card alone has no /dev/nvidia0."""
    (tmp_path / "nvidia3").touch()
    monkeypatch.setattr("pgvision.runtime.opening._NVIDIA", (f"{tmp_path}/nvidia[0-9]*",))
    if hidden is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert library in open_engine("tiny").backend.description


def test_large_checkpoints_run_on_torch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_unsupported(folder) is None
    monkeypatch.setattr("pgvision.runtime.onnx_backend.MAX_PARAMETERS", 1_000_000)
    assert "parameters" in str(why_unsupported(folder))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("hidden_act", "relu", "activations"),
        ("rope_parameters", {"rope_type": "linear", "factor": 2.0}, "rotary"),
        ("rope_scaling", {"type": "linear", "factor": 2.0}, "rotary"),  # of older releases
        ("attention_bias", True, "biases"),
        ("model_type", "gemma2", "attn_logit_softcapping"),  # whose default is a cap
        ("head_dim", None, "head_dim"),
    ],
)
def test_what_the_graphs_do_not_compute_runs_on_torch(
    folder: Path, key: str, value: object, words: str
) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"][key] = value
    (folder / "config.json").write_text(json.dumps(config))
    assert words in str(why_unsupported(folder))


def test_scaled_rotary_positions_are_those_of_transformers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["rope_parameters"] = {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 300,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    theirs = load(folder, dtype="float32", device="cpu")
    wanted = theirs.model.model.language_model.rotary_emb.inv_freq
    found = rotary_frequencies(config["text_config"])
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    plain = rotary_frequencies(config["text_config"] | {"rope_parameters": None})
    assert (found[0], found[-1] * 4) == (plain[0], plain[-1])
    (request, *_) = requests()
    ((_, ours),) = open_engine(folder).generate([request])
    ((_, torchs),) = theirs.generate([request])
    assert ours.text == torchs.text
    np.testing.assert_allclose(ours.logprobs, torchs.logprobs, atol=1e-3)


# --- weights that are not there -----------------------------------------------------------------


def damaged(folder: Path, damage: str) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = "vision_tower.encoder.layers.2.mlp.fc1.weight"
    if damage == "missing":
        del weights[name]
    elif damage == "unknown":
        weights["vision_tower.encoder.layers.99.mlp.fc1.weight"] = weights[name].clone()
    else:
        weights[name] = weights[name][:-1].clone()
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize("damage", ["missing", "unknown", "misshapen"])
def test_weights_that_do_not_fit_are_refused(folder: Path, damage: str, engine: str) -> None:
    damaged(folder, damage)
    with pytest.raises(CheckpointError, match=r"fc1\.weight"):
        open_engine(folder, engine=engine)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_the_output_layer_is_the_embeddings_only_where_they_are_tied(
    folder: Path, engine: str
) -> None:
    path, settings = folder / "model.safetensors", folder / "config.json"
    weights, config = load_file(path), json.loads(settings.read_text())
    (request, *_) = requests()
    ((_, wanted),) = open_engine("tiny").generate([request])
    # 1. Tied, one of the two suffices.
    table = weights.pop("language_model.model.embed_tokens.weight")
    save_file(weights | {"lm_head.weight": table}, path, metadata={"format": "pt"})
    ((_, found),) = open_engine(folder, engine=engine).generate([request])
    assert found.text == wanted.text
    # 2. Apart, both are needed, and of the right shape.
    settings.write_text(json.dumps(config | {"tie_word_embeddings": False}))
    weights["language_model.model.embed_tokens.weight"] = table
    for more in ({}, {"lm_head.weight": table[:-1].clone()}):
        save_file(weights | more, path, metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
            open_engine(folder, engine=engine)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_a_checkpoint_in_parts_with_one_gone_is_refused(folder: Path, engine: str) -> None:
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    parts = {"model-1.safetensors": names[:50], "model-2.safetensors": names[50:]}
    for part, own in parts.items():
        save_file({name: weights[name] for name in own}, folder / part, metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = {
        "metadata": {},
        "weight_map": {name: part for part, own in parts.items() for name in own},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (request, *_) = requests()
    ((_, whole),) = open_engine(folder, engine=engine).generate([request])
    ((_, wanted),) = open_engine("tiny").generate([request])
    assert whole.text == wanted.text
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-2\.safetensors"):
        open_engine(folder, engine="torch")


# peft asks transformers for an attribute that transformers has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("damage", ["missing", "unknown"])
def test_an_adapter_whose_weights_have_no_place_is_refused(tmp_path: Path, damage: str) -> None:
    config = LoraConfig(r=2, target_modules=r".*language_model.*q_proj", init_lora_weights=False)
    model = get_peft_model(load_apart("tiny").model, config)
    model.peft_config["default"].base_model_name_or_path = str(TINY)
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    weights = load_file(path)
    merged = open_engine(tmp_path)  # as it was saved it loads
    (request, *_) = requests()
    assert next(merged.generate([request]))[1].text is not None
    if damage == "unknown":  # as an adapter trained on the language model alone names them
        weights = {
            name.replace("model.language_model.", "text_tower."): value
            for name, value in weights.items()
        }
    else:
        weights.popitem()
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"weights are (missing|unknown)"):
        open_engine(tmp_path)


# --- answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_a_model_with_nan_in_its_weights_is_an_error_and_not_nothing_there(
    folder: Path, engine: str
) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["language_model.model.layers.5.mlp.down_proj.weight"][3, 7] = torch.nan
    save_file(weights, path, metadata={"format": "pt"})
    broken = open_engine(folder, engine=engine)
    for request in requests():
        with pytest.raises(CheckpointError, match=r"copy \(.*float32.*NaN or infinite"):
            list(broken.generate([request]))


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_a_tokenizer_that_cannot_be_read_is_an_error_of_ours(folder: Path, engine: str) -> None:
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer_config.json: cannot be read"):
        open_engine(folder, engine=engine)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer.json"):
        open_engine(folder, engine=engine)


def test_prompts_have_a_limit() -> None:
    engine = open_engine("tiny")
    image = Picture(IMAGES[0])
    assert next(engine.generate([Request(picture=image, prefix="how many " * 60)]))
    with pytest.raises(PromptError, match="at most 512"):
        list(engine.generate([Request(picture=image, prefix="how many " * 600)]))
    with pytest.raises(PromptError, match="<image>"):
        list(engine.generate([Request(picture=image, prefix="<image> caption en")]))


@pytest.mark.parametrize("size", [-1, 0, 2.5, "8", True])
def test_batch_sizes_are_whole_numbers_above_zero(size: object) -> None:
    with pytest.raises(OptionError, match="batch_size"):
        list(open_engine("tiny").generate(requests(), batch_size=size))


def test_the_cache_has_as_many_rows_as_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine("tiny")
    rows, allocate = [], engine.backend.allocate
    monkeypatch.setattr(
        engine.backend,
        "allocate",
        lambda count, slots: rows.append(count) or allocate(count, slots),
    )
    alone = [next(engine.generate([request]))[1].text for request in requests()]
    assert set(rows) == {1}
    rows.clear()
    together = dict(engine.generate(requests(), batch_size=8))
    assert rows[0] == 4
    assert [together[number].text for number in range(4)] == alone
