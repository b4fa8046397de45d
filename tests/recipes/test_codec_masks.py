"""Masks for the codec from everywhere, and figures against what is known by construction."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from pgvision.errors import CodecError, OptionError, SourceError
from recipes.codec.figures import measure_codec, save_worst_masks
from recipes.codec.masks import read_masks


class Archive:
    """A codec that loses nothing but its left half: it keeps what it was given."""

    def __init__(self, *, spoil=False):
        self.spoil = spoil
        self.seen = []

    def encode(self, masks):
        self.seen.append(masks)
        return np.zeros((len(masks), 16), np.int64)

    def decode(self, codes):
        logits = np.where(self.seen[-1] >= 0.5, 1.0, -1.0).astype(np.float32)
        if self.spoil:
            logits[:, :, :32] = -1.0
        return logits


def square(left, top, right, bottom):
    mask = np.zeros((64, 64), np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


def test_a_codec_that_loses_nothing_is_perfect():
    masks = np.stack([square(8, 8, 56, 56), square(0, 0, 64, 64), square(30, 30, 31, 31)])
    report = measure_codec(Archive(), masks).to_dict()
    assert report["mean_iou"] == report["mean_boundary_iou"] == 1.0
    assert report["codes_used"] == 1
    assert report["code_perplexity"] == pytest.approx(1.0)


def test_losing_half_of_a_square_is_half_an_iou():
    report = measure_codec(Archive(spoil=True), square(16, 16, 48, 48)[None])
    assert report.ious.tolist() == [0.5]
    # The band is 2 pixels wide: 32x32 without 28x28 is 240 pixels. What is left, 16x32, has a band
    # of 16*32 - 12*28 = 176. They share the right side and half of top and bottom: 2*16*2 + 2*28.
    assert report.boundary_ious.tolist() == [pytest.approx(120 / (240 + 176 - 120))]


def test_masks_of_a_data_set_are_cropped_to_themselves(tmp_path):
    truth = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 200, "width": 300}],
        "categories": [{"id": 1, "name": "helmet"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [50, 60, 100, 80],
                "area": 8000,
                "segmentation": [[50, 60, 150, 60, 150, 140, 50, 140]],
            }
        ],
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    masks, _ = read_masks([str(path)])
    assert masks.shape == (1, 64, 64)
    assert (masks >= 250).mean() > 0.95


def test_masks_of_a_folder_of_pictures(tmp_path):
    picture = np.zeros((100, 120), np.uint8)
    picture[10:74, 20:84] = 255
    picture[10:42, 20:84] = 0
    cv2.imwrite(str(tmp_path / "m.png"), picture)
    (mask,), _ = read_masks([str(tmp_path)])
    assert (mask == 255).all()
    cv2.imwrite(str(tmp_path / "empty.png"), picture * 0)
    with pytest.raises(CodecError, match=r"empty\.png"):
        read_masks([str(tmp_path)])


def test_masks_of_rendered_scenes_and_archives_are_put_together(tmp_path):
    held = np.stack([square(0, 0, 10, 10)] * 3)
    np.savez(tmp_path / "masks.npz", masks=held, weights=[2, 0, 0.5])
    scenes, _ = read_masks(["scenes:1:20000000"])
    both, weights = read_masks(["scenes:1:20000000", str(tmp_path / "masks.npz")])
    assert len(both) == len(scenes) + 3
    assert (both[-3:] == held).all()
    assert weights.tolist() == [*[1] * len(scenes), 2, 0, 0.5]


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("scenes:", OptionError),
        ("scenes:x", OptionError),
        ("scenes:1:2:3", OptionError),
        ("none.npz", CodecError),
        ("none.json", SourceError),
    ],
)
def test_sources_that_hold_no_masks(tmp_path, monkeypatch, source, error):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        read_masks([source])


@pytest.mark.parametrize(
    "arrays",
    [
        {"other": np.zeros(3)},
        {"masks": np.zeros((2, 32, 32), np.uint8)},
        {"masks": np.zeros((2, 64, 64))},
        {"masks": np.zeros((0, 64, 64), np.uint8)},
        {"masks": np.zeros((2, 64, 64), np.uint8), "weights": np.ones(3)},
        {"masks": np.full((2, 64, 64), None)},
    ],
)
def test_archives_of_another_shape_are_refused(tmp_path, arrays):
    np.savez(tmp_path / "masks.npz", **arrays)
    with pytest.raises(CodecError, match=r"masks\.npz"):
        read_masks([str(tmp_path / "masks.npz")])


def test_files_that_are_no_archives_are_refused(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04cut")
    for name in ("one.npz", "cut.npz"):
        with pytest.raises(CodecError, match="expected an .npz with 'masks'"):
            read_masks([str(tmp_path / name)])


def test_the_worst_cases_show_what_was_lost_and_added(tmp_path):
    masks = np.stack([square(8, 8, 56, 56), square(16, 16, 48, 48)])
    report = measure_codec(Archive(spoil=True), masks)
    save_worst_masks(masks, report, tmp_path / "worst.png")
    colours = {tuple(pixel) for pixel in cv2.imread(str(tmp_path / "worst.png")).reshape(-1, 3)}
    assert (255, 255, 255) in colours
    assert (60, 60, 230) in colours


def test_masks_are_collected_a_codec_is_trained_on_them_and_measured(tmp_path):
    """The three commands of the recipe, in processes of their own."""

    def call(*words):
        done = subprocess.run(
            [sys.executable, "-m", *map(str, words)], capture_output=True, text=True, check=True
        )
        return done.stdout

    held, out, worst = tmp_path / "masks.npz", tmp_path / "codec", tmp_path / "worst.png"
    call("recipes.codec", "masks", "scenes:2", "--out", held)
    call("vqvae", "train", "--masks", held, "--out", out, "--steps", 2, "--batch-size", 4)
    found = call(
        "recipes.codec",
        "eval",
        held,
        "--limit",
        10,
        "--worst",
        worst,
        "--codec",
        out / "codec.safetensors",
    )
    figures = json.loads(found)
    assert figures["num_masks"] == 10 and 0 <= figures["mean_iou"] <= 1
    assert 1 <= figures["codes_used"] <= 128
    assert cv2.imread(str(worst)) is not None
