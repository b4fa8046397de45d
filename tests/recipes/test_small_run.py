"""The recipe of the checkpoint with real eyes, in small: a random tower stands for DINOv2."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoProcessor, PaliGemmaForConditionalGeneration, SiglipVisionModel

from pgvision.datasets import Annotation, Category, Dataset, ImageRecord
from pgvision.errors import CheckpointError, OptionError
from pgvision.runtime.checkpoints import TINY_FOLDER, find_checkpoint
from recipes.architecture import build_processor
from recipes.features import features_path, relit, save_features
from recipes.grids import regrid_matrix
from recipes.photographs import Source, pack_photographs
from recipes.scene_cache import render_shard
from recipes.shards import load_shard, save_shard
from recipes.small.second_edition import BLOCKS, FROZEN, Data, Settings, SmallRecipe, export, train
from recipes.teacher import save_lessons
from recipes.vision_tower import eyes_config, load_eyes
from recipes.words import known_words

SETTINGS = Settings(
    steps=4, vision_steps=2, vision_images=2, num_images=2, num_prompts=2, warmup=2, compiled=False
)


@pytest.fixture(scope="module")
def tower() -> SiglipVisionModel:
    torch.manual_seed(0)
    return SiglipVisionModel(eyes_config(blocks=BLOCKS, resolution=37 * 14)).eval()


@pytest.fixture(scope="module")
def eyes(tower: SiglipVisionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = {
        name.removeprefix("vision_model.").removeprefix("encoder."): value.half().contiguous()
        for name, value in tower.state_dict().items()
    }
    held = {
        name.removeprefix("embeddings.").replace("embedding.weight", "embedding")
        if "position" in name
        else name.removeprefix("embeddings."): value
        for name, value in names.items()
    }
    path = tmp_path_factory.mktemp("eyes") / "model.safetensors"
    save_file(held, path)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, eyes: Path) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    save_shard(render_shard(0, resolution=224, size=4), folder / "shard_000.npz")
    save_shard(_photographs(folder), folder / "hardhat_whole.npz")
    frozen = load_eyes(eyes, blocks=FROZEN).eval()
    for path in folder.glob("*.npz"):
        save_features(path, frozen)
    save_lessons(folder / "shard_000.npz", TINY_FOLDER)
    return folder


def _photographs(folder: Path) -> object:
    cv2.imwrite(str(folder / "a.png"), np.full((60, 80, 3), 90, np.uint8))
    boxes = ((8.0, 6.0, 20.0, 24.0), (60.0, 30.0, 16.0, 15.0))
    objects = tuple(Annotation(k, k, box) for k, box in enumerate(boxes, start=1))
    record = ImageRecord(1, "a.png", folder / "a.png", (60, 80), objects)
    data = Dataset((record,), (Category(1, "hat"), Category(2, "head")))
    return pack_photographs(
        Source(data, {"hat": "helmet", "head": "head"}), view="mirrored", resolution=224
    )


def test_eyes_see_in_our_pixels_what_they_saw_in_imagenets(
    tower: SiglipVisionModel, eyes: Path
) -> None:
    ours = load_eyes(eyes, blocks=BLOCKS, resolution=37 * 14).eval()
    pixels = torch.rand(1, 3, 37 * 14, 37 * 14)
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    theirs = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]
    with torch.no_grad():
        expected = tower(theirs).last_hidden_state
        torch.testing.assert_close(
            ours(pixels * 2 - 1).last_hidden_state, expected, rtol=0.02, atol=0.02
        )


def test_eyes_that_lack_a_block_are_refused(eyes: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lacks layers\.10\.mlp.*DINOv2"):
        load_eyes(eyes, blocks=BLOCKS + 1)


def test_a_mirrored_photograph_has_mirrored_boxes(tmp_path: Path) -> None:
    shard = _photographs(tmp_path)
    # By hand: 80 wide, so left 8 and width 20 become 52 to 72; sorted from left to right.
    expected = [[30 / 60, 4 / 80, 45 / 60, 20 / 80], [6 / 60, 52 / 80, 30 / 60, 72 / 80]]
    np.testing.assert_allclose(shard.boxes, expected, atol=1e-6)
    assert [shard.names[k] for k in shard.classes] == ["head", "helmet"]
    assert "one worker with helmet and one worker without helmet" in shard.sentences[0]
    assert (shard.codes == -1).all()


def test_crops_keep_what_they_show(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(12):
        picture = np.zeros((90, 120, 3), np.uint8)
        left, top = int(rng.integers(0, 90)), int(rng.integers(0, 60))
        picture[top : top + 30, left : left + 30] = 255
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture)
        box = Annotation(1, 1, (float(left), float(top), 30.0, 30.0))
        name = f"{number}.png"
        record = ImageRecord(number, name, tmp_path / name, (90, 120), (box,))
        source = Source(Dataset((record,), (Category(1, "hat"),)), {"hat": "hat"})
        shard = pack_photographs(source, view="crop", resolution=64, seed=number)
        assert len(shard.boxes) == 1 or (shard.images > 128).mean() < 0.2
        for box_ in shard.boxes:
            white = np.argwhere(shard.images[0, ..., 0] > 128)
            seen = np.array([*white.min(0), *(white.max(0) + 1)]) / 64
            np.testing.assert_allclose(box_, seen, atol=1.5 / 64)


def test_cached_features_and_the_upper_blocks_are_the_whole_tower(eyes: Path, cache: Path) -> None:
    path = cache / "shard_000.npz"
    whole = load_eyes(eyes, blocks=BLOCKS).eval()
    processor = AutoProcessor.from_pretrained(TINY_FOLDER)
    recipe = SmallRecipe(SETTINGS, processor)
    recipe.start(eyes, TINY_FOLDER)
    pixels = relit(load_shard(path).images, np.random.default_rng(0)).transpose(0, 3, 1, 2)
    with torch.no_grad():
        expected = whole(torch.from_numpy(pixels)).last_hidden_state
        features = torch.from_numpy(np.load(features_path(path)).astype(np.float32))
        got = recipe.see(features)
    # Half-precision features, bf16 products: alike to a few hundredths of their spread.
    assert float((got - expected).abs().mean()) < 0.03 * float(expected.std())


def test_a_run_learns_stops_goes_on_and_loads_with_transformers(
    cache: Path, eyes: Path, tmp_path: Path
) -> None:
    places = {"cache": cache, "eyes": eyes, "tiny": TINY_FOLDER}
    whole = train(SETTINGS, out=tmp_path / "whole", **places)
    train(SETTINGS, out=tmp_path / "parts", until=3, **places)
    parts = train(SETTINGS, out=tmp_path / "parts", **places)
    assert (tmp_path / "parts/checkpoint-4").exists()
    start = load_eyes(eyes, blocks=BLOCKS).state_dict()
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], value, msg=name)
        block = name.split("encoder.layers.")
        if len(block) == 2 and "language" not in name:
            moved = not torch.equal(value, start[name.split("vision_tower.")[1]])
            assert moved == (int(block[1].split(".")[0]) >= FROZEN), name
    with pytest.raises(OptionError, match=r"learning_rate was 0\.0015 and is 0\.5"):
        train(replace(SETTINGS, learning_rate=0.5), out=tmp_path / "parts", **places)
    export(whole, tmp_path / "checkpoint")
    model = PaliGemmaForConditionalGeneration.from_pretrained(tmp_path / "checkpoint")
    size = sum(parameter.numel() for parameter in model.parameters())
    assert model.dtype == torch.float16
    assert size <= 24e6
    card = json.loads((tmp_path / "checkpoint/pgvision.json").read_text(encoding="utf-8"))
    assert {"helmet", "person", "worker", "platelet"} <= set(card["classes"])
    assert "is anyone not wearing a helmet?" in card["questions"]
    assert find_checkpoint(tmp_path / "checkpoint").kind == "tiny"
    assert (tmp_path / "checkpoint/model.safetensors").stat().st_size <= 50e6


def test_the_decoder_begins_as_tinys(eyes: Path) -> None:
    processor = build_processor(known_words(TINY_FOLDER), resolution=224, patch=14)
    recipe = SmallRecipe(SETTINGS, processor)
    recipe.start(eyes, TINY_FOLDER)
    tiny = PaliGemmaForConditionalGeneration.from_pretrained(TINY_FOLDER, dtype=torch.float32)
    tiny.set_attn_implementation("eager")
    old = AutoProcessor.from_pretrained(TINY_FOLDER).tokenizer
    text = "detect helmet\n<loc0100><loc0200><loc0300><loc0400> helmet ; <loc0101>"
    rows = [
        (model.eval(), torch.tensor([one(text, add_special_tokens=False)["input_ids"]]), one)
        for model, one in ((tiny, old), (recipe.model, processor.tokenizer))
    ]
    chances = []
    for model, ids, one in rows:
        hidden = model.model.language_model(inputs_embeds=model.get_input_embeddings()(ids))
        logits = model.lm_head(hidden.last_hidden_state)
        places = one.convert_tokens_to_ids([f"<loc{k:04d}>" for k in range(1024)])
        chances.append(logits[0][:, places].detach())
    torch.testing.assert_close(chances[0], chances[1], rtol=1e-4, atol=1e-4)


def test_another_grid_tells_the_same_distances() -> None:
    # Tokens that say how far it is to the right edge of something at 0.75.
    told = [0.75 - (np.arange(side * side) % side + 0.5) / side for side in (10, 16)]
    np.testing.assert_allclose(regrid_matrix(10, 16) @ told[0], told[1], atol=1e-5)


def test_pictures_come_from_every_set(cache: Path) -> None:
    data = Data(cache, AutoProcessor.from_pretrained(TINY_FOLDER))
    lesson = data.draw(replace(SETTINGS, vision_images=24), 0)
    batch, taught = lesson.batch, lesson.taught
    assert set(batch.sources) == {0, 1}
    # The hard hats come first by name; only rendered scenes have a teacher.
    np.testing.assert_array_equal(taught[:, 0, 0].isnan().numpy(), batch.sources == 0)
    assert batch.dense.known[batch.sources == 0].sum() == 2 * (batch.sources == 0).sum()


def test_rates_by_hand() -> None:
    numbers = {"learning_rate": 1.0, "text_rate": 2.0, "later": 0.3, "warmup": 2, "decay": 0.5}
    settings = replace(SETTINGS, steps=30, vision_steps=10, **numbers)
    recipe = SmallRecipe(settings, AutoProcessor.from_pretrained(TINY_FOLDER))
    steps = [0, 1, 5, 7, 9, 10, 11, 20, 25]
    # Up over 2 steps, down over the last 5 to 0.3; then 0.3 of it, down over the last 10.
    sees = [0.5, 1.0, 1.0, 0.6, 0.3, 0.3, 0.3, 0.3, 0.15]
    reads = [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 2.0, 1.0]
    for expected, group in ((sees, {"sees": True}), (reads, {"sees": False})):
        assert [recipe.rate(step, group) for step in steps] == pytest.approx(expected)


@torch.no_grad()
def test_reading_in_words_counts_a_quarter(cache: Path, eyes: Path) -> None:
    processor = build_processor(known_words(TINY_FOLDER), resolution=224, patch=14)
    recipe = SmallRecipe(SETTINGS, processor)
    recipe.start(eyes, TINY_FOLDER)
    lesson = Data(cache, processor).draw(SETTINGS, SETTINGS.vision_steps)
    torch.manual_seed(0)
    counted = recipe(lesson)
    torch.manual_seed(0)
    plain = recipe._losses(lesson.batch, None)
    assert counted.keys() == plain.keys() > {"suffix", "asked", "told", "edges", "looks", "dense"}
    shares = {name: float(counted[name] / plain[name]) for name in plain}
    assert shares == pytest.approx({name: 0.25 if name == "told" else 1.0 for name in plain})
