"""Overlays change pixels where they should, and only there."""

from pathlib import Path

import numpy as np
import pytest

from pgvision import drawing, fonts
from pgvision.errors import OptionError, ShapeError

_BOXES = np.array([[20, 30, 60, 80], [100, 10, 150, 50]], dtype=np.float32)
_IDS = np.array([0, 1])


def _canvas() -> np.ndarray:
    return np.full((120, 160, 3), 40, np.uint8)


def _near_edges(xyxy: np.ndarray, hw: tuple[int, int], reach: int) -> np.ndarray:
    y, x = np.mgrid[: hw[0], : hw[1]]
    near = np.zeros(hw, bool)
    for x0, y0, x1, y1 in xyxy:
        outer = (x >= x0 - reach) & (x <= x1 + reach) & (y >= y0 - reach) & (y <= y1 + reach)
        inner = (x > x0 + reach) & (x < x1 - reach) & (y > y0 + reach) & (y < y1 - reach)
        near |= outer & ~inner
    return near


@pytest.mark.parametrize("thickness", [1, 2, 5])
def test_boxes_change_their_edges_and_nothing_else(thickness: int) -> None:
    drawn = drawing.draw_boxes(_canvas(), _BOXES, color_ids=_IDS, thickness=thickness)
    changed = (drawn != 40).any(axis=2)
    assert changed[_near_edges(_BOXES, (120, 160), 0)].all()
    assert not changed[~_near_edges(_BOXES, (120, 160), thickness // 2 + 1)].any()


def test_a_box_along_the_border_is_visible_on_all_sides() -> None:
    drawn = drawing.draw_boxes(
        _canvas(), np.array([[0, 0, 160, 120]]), color_ids=np.array([0]), thickness=1
    )
    changed = (drawn != 40).any(axis=2)
    assert changed[0].all()
    assert changed[-1].all()
    assert changed[:, 0].all()
    assert changed[:, -1].all()


def test_equal_numbers_share_a_colour_and_minus_one_is_grey() -> None:
    ids = np.array([4, -1])
    drawn = drawing.draw_boxes(_canvas(), _BOXES, color_ids=ids, thickness=1)
    again = drawing.draw_boxes(_canvas(), _BOXES[::-1], color_ids=ids, thickness=1)
    np.testing.assert_array_equal(drawn[30, 20], again[10, 100])
    blue, green, red = drawn[10, 100]
    assert blue == green == red
    assert len(set(drawn[30, 20].tolist())) > 1


def test_masks_blend_inside_the_mask_only() -> None:
    disc = np.hypot(*np.mgrid[-10:11, -10:11]) <= 9
    drawn = drawing.draw_masks(_canvas(), [(disc, (50, 60))], color_ids=np.array([0]), opacity=0.5)
    full = np.zeros((120, 160), bool)
    full[60:81, 50:71] = disc
    np.testing.assert_array_equal((drawn != 40).any(axis=2), full)
    solid = drawing.draw_masks(_canvas(), [(disc, (50, 60))], color_ids=np.array([0]), opacity=1)
    half = (solid[full].astype(float) + 40) / 2
    assert np.abs(drawn[full] - half).max() <= 0.5


def test_a_small_mask_stays_visible_on_a_large_one() -> None:
    large, small = (np.ones((60, 60), bool), (10, 10)), (np.ones((6, 6), bool), (30, 30))
    one = drawing.draw_masks(_canvas(), [large, small], color_ids=_IDS)
    other = drawing.draw_masks(_canvas(), [small, large], color_ids=_IDS[::-1])
    np.testing.assert_array_equal(one, other)
    assert (one[32, 32] != one[20, 20]).any()


def test_contours_follow_outer_rim_and_hole() -> None:
    ring = np.ones((40, 40), bool)
    ring[10:30, 10:30] = False
    crop = (ring, (60, 40))
    drawn = drawing.draw_contours(_canvas(), [crop], color_ids=np.array([2]), thickness=1)
    changed = (drawn != 40).any(axis=2)
    assert changed[40, 60:100].all()
    assert changed[49, 71:89].all()
    assert not changed[60, 80]
    assert not changed[45, 65]
    assert not changed[:39].any()


@pytest.mark.parametrize("thickness", [1, 2, 4])
def test_an_outline_shows_on_its_own_colour(thickness: int) -> None:
    """Amber on an amber helmet: some pixels of the outline stand off clearly."""
    amber = np.array([0x00, 0xB0, 0xFF], np.uint8)
    canvas = np.broadcast_to(amber, (120, 160, 3)).copy()
    crop = (np.ones((40, 40), bool), (60, 40))
    drawn = drawing.draw_contours(canvas, [crop], color_ids=np.array([0]), thickness=thickness)
    contrast = np.abs(drawn[40 - thickness : 40 + thickness + 1, 80].astype(int) - amber).sum(
        axis=1
    )
    assert contrast.max() > 150


@pytest.mark.parametrize("hw", [(96, 128), (480, 640), (2160, 3840)])
def test_labels_touch_their_boxes_and_hide_neither_small_objects_nor_each_other(hw) -> None:
    height, width = hw
    unit = np.array([width, height, width, height])
    worker, helmet = np.array([0.3, 0.3, 0.5, 0.9]), np.array([0.36, 0.3, 0.44, 0.38])
    other = np.array([0.6, 0.5, 0.64, 0.56])
    boxes = np.stack([worker, helmet, other]) * unit
    texts, ids = ["worker 0.90", "helmet 0.80", "head 0.70"], np.array([5, 1, 2])

    def changed(rows: list[int]) -> np.ndarray:
        canvas = np.full((height, width, 3), 40, np.uint8)
        chosen = [texts[row] for row in rows]
        drawing.draw_labels(canvas, boxes[rows], chosen, color_ids=ids[rows])
        return (canvas != 40).any(axis=2)

    together = changed([0, 1, 2])
    for left, top, right, bottom in boxes[1:].astype(int):
        assert not together[top + 1 : bottom, left + 1 : right].any()
    reach = drawing.fit_thickness(hw) + 2
    areas = 0
    for row, (left, top, right, bottom) in enumerate(boxes):
        rows, columns = np.nonzero(changed([row]))
        areas += len(rows)
        assert left - reach <= columns.max() and columns.min() <= right + reach
        assert top - reach <= rows.max() and rows.min() <= bottom + reach
    assert together.sum() > 0.99 * areas  # none hides another


@pytest.mark.parametrize("text", ["helmet 0.87", "каска 0.87", "l'échelle", "安全帽", "", "a\nb"])
def test_labels_stay_in_the_picture_and_leave_the_rest(text: str) -> None:
    box = np.array([[40, 60, 90, 100]], dtype=np.float32)
    drawn = drawing.draw_labels(_canvas(), box, [text], color_ids=np.array([0]))
    changed = (drawn != 40).any(axis=2)
    assert changed.any()
    assert not changed[:30].any()
    assert not changed[70:].any()


def test_a_label_at_the_top_moves_into_the_picture() -> None:
    box = np.array([[140, 0, 160, 30]], dtype=np.float32)
    drawn = drawing.draw_labels(_canvas(), box, ["truck 0.99"], color_ids=np.array([0]))
    changed = (drawn != 40).any(axis=2)
    assert changed[:, -2:].any()
    assert changed[:, :140].any()
    assert changed.any(axis=1).sum() >= 8


def test_caption_leaves_the_picture_and_grows_with_the_text() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    short = drawing.with_caption(picture, "a helmet")
    long = drawing.with_caption(picture, "a yellow helmet on the head of a worker " * 4)
    np.testing.assert_array_equal(short[:120], picture)
    assert short[120:].max() > 200
    assert len(long) > len(short) > 120
    assert len(drawing.with_caption(picture, "")) > 120


def test_nothing_to_draw_changes_nothing() -> None:
    none, ids = np.zeros((0, 4), np.float32), np.zeros(0, int)
    drawing_free = _canvas()
    drawing.draw_boxes(drawing_free, none, color_ids=ids, thickness=2)
    drawing.draw_labels(drawing_free, none, [], color_ids=ids)
    drawing.draw_masks(drawing_free, [], color_ids=ids)
    np.testing.assert_array_equal(drawing_free, _canvas())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match="color_ids"):
        drawing.draw_boxes(_canvas(), _BOXES, color_ids=np.array([0]), thickness=1)
    with pytest.raises(ShapeError, match="texts"):
        drawing.draw_labels(_canvas(), _BOXES, ["one"], color_ids=_IDS)
    for corner in ((150, 0), (-1, 0), (0, 118)):
        with pytest.raises(ShapeError, match="beyond"):
            crop = (np.ones((20, 20), bool), corner)
            drawing.draw_masks(_canvas(), [crop], color_ids=np.array([0]))


def label_ink(text: str, suffix: str = "", **options: object) -> np.ndarray:
    """Return where a label at a box in the middle changes a grey canvas."""
    canvas = np.full((200, 300, 3), 40, np.uint8)
    drawing.draw_labels(
        canvas, np.array([[100, 90, 200, 120]]), [text],
        color_ids=np.array([0]), suffixes=[suffix], **options,
    )  # fmt: skip
    rows, columns = np.nonzero((canvas != 40).any(axis=2))
    return canvas[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def test_a_long_label_keeps_its_score() -> None:
    long, other = label_ink("a helmet " * 30, "0.87"), label_ink("a helmet " * 30, "0.12")
    assert long.shape == other.shape
    assert long.shape[1] <= 300
    differs = np.flatnonzero((long != other).any(axis=(0, 2)))
    assert len(differs)
    assert differs.min() > 0.8 * long.shape[1]  # the same beginning, another end
    short = label_ink("cone", "0.87")
    assert short.shape[1] < label_ink("cone cone", "0.87").shape[1] < 300


def test_a_word_wider_than_the_caption_is_broken() -> None:
    picture = np.zeros((60, 200, 3), np.uint8)
    one, four = drawing.with_caption(picture, "m" * 12), drawing.with_caption(picture, "m" * 48)
    assert len(four) > len(one)
    ink = lambda image: (image[60:] > 120).sum()  # noqa: E731
    assert ink(four) == pytest.approx(4 * ink(one), rel=0.1)  # nothing is cut off


def test_letters_are_at_least_11_pixels_and_follow_font_size() -> None:
    small = np.full((40, 60, 3), 40, np.uint8)
    drawing.draw_labels(small, np.array([[5, 20, 55, 39]]), ["Ag"], color_ids=np.array([0]))
    assert (small != 40).any(axis=(1, 2)).sum() >= 11
    assert label_ink("Ag", font_size=40).shape[0] > 1.8 * label_ink("Ag", font_size=20).shape[0]
    with pytest.raises(OptionError, match=r"font: .*none\.ttf"):
        label_ink("Ag", font="none.ttf")


@pytest.mark.parametrize(
    "text", ["helmet", "каска", "κράνος", "خوذة", "קסדה", "საფარი", "սաղավարտ", "😀"]
)
def test_eight_scripts_have_letters_in_the_bundled_font(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """matplotlib reads the table of the font's letters; no letter may be an empty box."""
    from matplotlib.ft2font import FT2Font

    known = FT2Font(fonts._bundled_font()).get_charmap()
    assert all(ord(letter) in known for letter in text)
    assert all(fonts._has_letter(fonts._bundled_font(), letter) for letter in text)
    label_ink(text)
    assert caplog.text == ""


def test_a_script_without_a_font_is_reported_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fonts, "_system_fonts", list)
    monkeypatch.setattr(fonts, "_script_fonts", {})
    monkeypatch.setattr(fonts, "_missing", set())
    assert not fonts._has_letter(fonts._bundled_font(), "安")
    for text in ("安全帽 1", "黄色头盔", "हेलमेट"):
        assert label_ink(text).any()
    assert caplog.text.count("no installed font has") == 2
    assert "'安' (CJK)" in caplog.text
    assert "'ह' (DEVANAGARI)" in caplog.text


def test_a_font_of_the_system_is_searched_for_the_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A copy of the bundled font with another letter as its 'A' stands for a Chinese font."""
    from fontTools.ttLib import TTFont

    font = TTFont(fonts._bundled_font())
    for table in font["cmap"].tables:
        if 0x41 in table.cmap and table.format in (4, 12):
            table.cmap = {0x5B89: table.cmap[0x41]}
    (tmp_path / "deep").mkdir()
    font.save(tmp_path / "deep" / "ChineseSans.ttf")
    monkeypatch.setattr(fonts, "_FONT_FOLDERS", (str(tmp_path),))
    monkeypatch.setattr(fonts, "_script_fonts", {})
    fonts._system_fonts.cache_clear()
    try:
        np.testing.assert_array_equal(label_ink("安安"), label_ink("AA"))
        # Letters of several fonts in one line, up to the rounding of their places.
        mixed, plain = label_ink("o安o", font_size=30), label_ink("oAo", font_size=30)
        assert np.abs(mixed.astype(int) - plain).mean() < 6
    finally:
        fonts._system_fonts.cache_clear()
    assert caplog.text == ""


def test_the_smaller_of_two_objects_gets_the_place_that_both_prefer() -> None:
    small, large, size = [50, 50, 60, 60], [50, 50, 200, 150], [40.0, 12.0]
    for order in ([0, 1], [1, 0]):
        boxes = np.array([small, large], float)[order]
        corners = drawing._places(boxes, np.array([size, size]), (300, 300)).tolist()
        by_name = dict(zip(order, corners, strict=True))
        assert by_name[0] == [50, 50 - 12]  # above the left top corner
        left, top = by_name[1]
        assert (left, top) != (50, 38)
        assert left + 40 <= 50 or left >= 90 or top + 12 <= 38 or top >= 50  # no overlap
