"""Adapters over a real (small, random) PaliGemma: weights and pictures are shared."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pgvision.images import VideoWriter
from pgvision.runtime import Engine, Picture, load, open_engine
from pgvision.tasks import Answerer, Captioner, Detector, Reader, Segmenter

IMAGE = np.random.default_rng(11).integers(0, 256, (90, 120, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, save_paligemma: Callable[[Path, str], None]
) -> Path:
    """A checkpoint in a folder, as a fine-tuned one is."""
    path = tmp_path_factory.mktemp("shared")
    save_paligemma(path, "gemma")
    (path / "pgvision.json").write_text('{"kind": "mix", "codec": "tiny"}')
    return path


@pytest.fixture
def engine(folder: Path) -> Engine:
    return open_engine(folder, device="cpu", dtype="float32")


@pytest.fixture
def encoded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each run of the image encoder took."""
    engine.forget_images()
    # Random weights never say <eos>; short answers keep the test short.
    monkeypatch.setattr(engine, "max_new_tokens", 3)
    counts: list[int] = []
    encode = engine.backend.encode
    monkeypatch.setattr(
        engine.backend, "encode", lambda images: counts.append(len(images)) or encode(images)
    )
    return counts


def options(folder: Path) -> dict[str, object]:
    return {"model": folder, "device": "cpu", "dtype": "float32"}


def test_adapters_of_one_model_share_its_weights(folder: Path, engine: Engine) -> None:
    first, second = Detector("helmet", **options(folder)), Segmenter("cone", **options(folder))
    assert first.generator is second.generator is engine
    assert first.kind == "mix"


def test_one_picture_asked_five_things_is_encoded_once(folder: Path, encoded: list[int]) -> None:
    path = folder / "site.png"
    cv2.imwrite(str(path), IMAGE)
    Detector(["helmet", "head"], classes_per_prompt=1, **options(folder))(IMAGE)
    Segmenter("helmet", **options(folder))(IMAGE[..., ::-1], color="rgb")
    Captioner(**options(folder))(path)
    Answerer(**options(folder))(IMAGE, "does the man wear a helmet?")
    Reader(**options(folder))(IMAGE)
    assert encoded == [1]


def test_frames_of_a_stream_are_each_encoded_once(folder: Path, encoded: list[int]) -> None:
    pictures = [np.full((20, 30, 3), shade, np.uint8) for shade in range(6)]
    detector = Detector(["helmet", "head"], classes_per_prompt=1, batch_size=4, **options(folder))
    assert len(detector.predict(pictures)) == 6
    assert sum(encoded) == 6


def test_the_images_used_last_are_remembered(
    folder: Path, engine: Engine, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = engine.encode([Picture(IMAGE)])[0].nbytes
    monkeypatch.setattr("pgvision.runtime.engine._REMEMBERED_BYTES", 3 * size)
    engine.forget_images()
    encoded.clear()
    captioner = Captioner(batch_size=1, **options(folder))
    with VideoWriter(folder / "clip.mp4", 25, (48, 64)) as writer:
        for shade in range(0, 200, 20):
            writer.write(np.full((48, 64, 3), shade, np.uint8))
    frames = [result.image for result in captioner.stream(folder / "clip.mp4")]
    assert (len(frames), encoded) == (10, [1] * 10)
    for image in frames[-3:]:  # still known
        captioner(image)
    assert encoded == [1] * 10
    captioner(frames[0])  # long gone
    assert encoded == [1] * 11


@pytest.mark.parametrize("hw", [(1, 1), (1, 40), (3, 50), (3, 3), (50, 3), (20, 3000)])
def test_flat_pictures_are_not_taken_for_channels_first(folder: Path, hw: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*hw, 3), np.uint8)
    # Pillow squeezes the same picture; it cannot mistake rows for channels.
    engine = load(folder)
    features = engine.encode([Picture(image)])[0]
    rgb = np.ascontiguousarray(image[..., ::-1])
    pillow = torch.from_numpy(
        np.asarray(_squeezed(rgb), np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    )
    with torch.inference_mode():
        expected = engine.model.get_image_features(pillow).pooler_output[0]
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)


def _squeezed(rgb: np.ndarray) -> object:
    from PIL import Image

    return Image.fromarray(rgb).resize((160, 160), Image.Resampling.BILINEAR)
