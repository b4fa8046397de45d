import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgvision.errors import OptionError, ShapeError
from pgvision.tokens import decode_boxes, encode_boxes, loc_text, object_text, seg_text

conventions = st.sampled_from(["1024", "1023"])
sizes = st.tuples(st.integers(1, 30_000), st.integers(1, 30_000))
shares = st.tuples(*[st.floats(0, 1)] * 4)


@given(share=shares, image_hw=sizes, convention=conventions)
def test_round_trip_is_within_half_a_bin(
    share: tuple[float, ...], image_hw: tuple[int, int], convention: str
) -> None:
    height, width = image_hw
    sides = np.array([width, height, width, height])
    xyxy = np.array([share]) * sides
    bins = encode_boxes(xyxy, image_hw=image_hw, convention=convention)
    back = decode_boxes(bins, image_hw=image_hw, convention=convention)
    steps = np.abs(back - xyxy) / sides * int(convention)
    at_clamp = (np.array([share]) > 1023.5 / 1024) & (convention == "1024")
    assert (steps <= np.where(at_clamp, 1.0, 0.5) + 1e-3).all()
    assert bins.min() >= 0
    assert bins.max() <= 1023


@given(
    bins=st.lists(st.tuples(*[st.integers(0, 1023)] * 4)), image_hw=sizes, convention=conventions
)
def test_every_bin_comes_back(
    bins: list[tuple[int, ...]], image_hw: tuple[int, int], convention: str
) -> None:
    rows = np.array(bins, dtype=np.int64).reshape(-1, 4)
    xyxy = decode_boxes(rows, image_hw=image_hw, convention=convention)
    assert xyxy.dtype == np.float32
    assert xyxy.shape == rows.shape
    back = encode_boxes(xyxy, image_hw=image_hw, convention=convention)
    np.testing.assert_array_equal(back, rows)


def test_order_is_yxyx_in_tokens_and_xyxy_in_pixels() -> None:
    xyxy = decode_boxes([[0, 256, 512, 768]], image_hw=(100, 200))
    assert xyxy.tolist() == [[50.0, 0.0, 150.0, 50.0]]


def test_big_vision_convention() -> None:
    # big_vision: round(v * 1023), clipped; 0.25 -> 255.75 -> 256; 1 -> 1023.
    bins = encode_boxes([[0.25, 0.5, 1, 1]], image_hw=(1, 1), convention="1023")
    assert bins.tolist() == [[512, 256, 1023, 1023]]
    assert decode_boxes([[1023] * 4], image_hw=(7, 9), convention="1023").tolist() == [[9, 7, 9, 7]]


def test_what_is_outside_is_clamped_and_there_is_no_loc1024() -> None:
    bins = encode_boxes([[-5, -np.inf, 640, 1e300]], image_hw=(480, 640))
    assert bins.tolist() == [[0, 0, 1023, 1023]]


def test_soft_bins_decode_between_bins() -> None:
    assert decode_boxes([[0.5, 1, 2, 3.25]], image_hw=(1024, 1024)).tolist() == [[1, 0.5, 3.25, 2]]


def test_no_boxes() -> None:
    assert decode_boxes(np.empty((0, 4)), image_hw=(9, 9)).shape == (0, 4)
    assert encode_boxes(np.empty((0, 4)), image_hw=(9, 9)).shape == (0, 4)


@pytest.mark.parametrize(
    "rows",
    [[1, 2, 3, 4], [[1, 2, 3]], [[1, 2], [3]], [], [["a"] * 4], [[True] * 4], None, [[1j] * 4]],
)
def test_other_shapes_are_refused(rows: object) -> None:
    for convert, name in ((decode_boxes, "loc_yxyx"), (encode_boxes, "xyxy")):
        with pytest.raises(ShapeError, match=rf"{name}: expected numbers of shape \(n, 4\)"):
            convert(rows, image_hw=(9, 9))  # type: ignore[operator]


def test_nan_and_bins_out_of_range_are_refused() -> None:
    with pytest.raises(ShapeError, match="NaN in row 1"):
        encode_boxes([[0, 0, 1, 1], [0, np.nan, 1, 1]], image_hw=(9, 9))
    for row in ([0, 0, 1, 1024], [-1, 0, 1, 1]):
        with pytest.raises(ShapeError, match=r"bins in \[0, 1023\]"):
            decode_boxes([row], image_hw=(9, 9))
    with pytest.raises(OptionError, match="big_vision"):
        decode_boxes([[0, 0, 1, 1]], image_hw=(9, 9), convention="1000")


def test_token_text() -> None:
    assert loc_text(np.array([0, 1023])) == "<loc0000><loc1023>"
    assert seg_text(range(2)) == "<seg000><seg001>"
    assert object_text([1, 2, 3, 4], None, [5] * 16) == (
        "<loc0001><loc0002><loc0003><loc0004>" + "<seg005>" * 16
    )


@pytest.mark.parametrize("bins", [[1024], [-1], [1.5], ["1"], 3, None])
def test_token_text_refuses_what_is_no_token(bins: object) -> None:
    with pytest.raises(ShapeError, match="bins"):
        loc_text(bins)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="codes"):
        seg_text([128])
    with pytest.raises(ShapeError, match="4 bins"):
        object_text([1, 2, 3], "cat")
