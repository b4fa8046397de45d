"""Tiles of a data set: boxes and masks lie on the same pixels as before."""

import numpy as np
import pytest

from pgvision import samples
from pgvision.datasets import read_coco, segmentation_to_mask
from pgvision.errors import OptionError
from pgvision.images import read_image
from pgvision.training import cut_tiles


@pytest.fixture(scope="module")
def whole():
    return read_coco(samples.truth())


def test_tiles_cover_every_image_and_repeat_their_pixels(whole, tmp_path):
    tiles = cut_tiles(whole, tmp_path, side=200, overlap=0.25)
    for record in whole.images:
        covered = np.zeros(record.image_hw, np.bool_)
        bgr = read_image(record.path).astype(int)
        for tile in tiles.images:
            number, *_, left, top = tile.file_name.removesuffix(".jpg").split("_")
            if int(number) == record.id:
                x, y = int(left), int(top)
                height, width = tile.image_hw
                covered[y : y + height, x : x + width] = True
                assert max(height, width) <= 200
                gap = np.abs(read_image(tile.path) - bgr[y : y + height, x : x + width])
                assert gap.mean() < 4
        assert covered.all()


def test_masks_and_boxes_move_along_and_cut_ones_become_crowds(whole, tmp_path):
    tiles = cut_tiles(whole, tmp_path, side=200)
    kept, crowds = 0, 0
    for tile in tiles.images:
        for item in tile.objects:
            left, top, right, bottom = item.xyxy
            assert 0 <= left < right <= tile.image_hw[1] and 0 <= top < bottom <= tile.image_hw[0]
            if item.segmentation is not None and not item.iscrowd:
                mask = segmentation_to_mask(item.segmentation, tile.image_hw)
                rows, columns = np.nonzero(mask)
                assert columns.min() >= left - 1 and columns.max() <= right
                assert rows.min() >= top - 1 and rows.max() <= bottom
            kept, crowds = kept + (not item.iscrowd), crowds + item.iscrowd
    assert kept > whole.num_objects and crowds > 20


def test_a_small_image_is_one_tile_and_bad_sides_are_refused(whole, tmp_path):
    tiles = cut_tiles(whole, tmp_path, side=1000)
    assert [image.image_hw for image in tiles.images] == [i.image_hw for i in whole.images]
    assert tiles.num_objects == whole.num_objects
    with pytest.raises(OptionError, match="side=8"):
        cut_tiles(whole, tmp_path, side=8)
