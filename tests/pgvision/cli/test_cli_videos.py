"""Annotated videos: rate, length, and tracks."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from pgvision.cli.outputs import OverlayNames, videos
from pgvision.errors import ImageError
from pgvision.images import iter_frames, video_info
from pgvision.results import DetectionResult, Failure, TextResult


def film_of(path, *, num_frames=12, fps=12):
    """Write a video by PyAV alone."""
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=fps)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        for shade in range(num_frames):
            array = np.full((48, 64, 3), shade * 10, np.uint8)
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(array, format="bgr24")))
        container.mux(pictures.encode())
    return path


def results_of(path, *, stride=1):
    for frame in iter_frames(str(path), stride=stride):
        yield DetectionResult(
            image_hw=frame.image_hw,
            xyxy=[[4 + frame.index, 8, 24 + frame.index, 28]],
            scores=[0.9],
            labels=["helmet"],
            class_ids=[0],
            classes=["helmet"],
            source=frame.source,
            frame_index=frame.index,
            time=frame.time,
        ).with_image(frame.bgr)


def test_a_copy_has_the_rate_and_the_frames_of_its_source(tmp_path, capsys):
    source = film_of(tmp_path / "site.mp4")
    with videos(OverlayNames(tmp_path / "out"), stride=1) as write:
        for result in results_of(source):
            write(result)
    copy = tmp_path / "out" / "site.overlay.mp4"
    info = video_info(copy)
    assert (info.fps, info.num_frames, info.image_hw) == (12.0, 12, (48, 64))
    assert f"wrote {copy} (12 frames)" in capsys.readouterr().err


def test_an_animation_that_ffmpeg_does_not_read_has_a_copy(tmp_path):
    source = tmp_path / "site.webp"
    first, *others = (Image.new("RGB", (64, 48), (shade, 0, 0)) for shade in (0, 90, 180))
    first.save(source, save_all=True, append_images=others, duration=200)
    with videos(OverlayNames(tmp_path), stride=1) as write:
        for result in results_of(source):
            write(result)
    times = [frame.time for frame in iter_frames(tmp_path / "site.overlay.mp4")]
    assert times == pytest.approx([0, 0.2, 0.4], abs=0.001)


def test_with_a_stride_the_copy_lasts_as_long_as_its_source(tmp_path, capsys):
    source = film_of(tmp_path / "site.mp4")
    with videos(OverlayNames(tmp_path), stride=3) as write:
        for result in results_of(source, stride=3):
            write(result)
    info = video_info(tmp_path / "site.overlay.mp4")
    assert info.num_frames == 4
    assert info.num_frames / info.fps == pytest.approx(1.0)


def test_frames_of_a_phone_that_slows_down_keep_their_times(tmp_path, capsys):
    source, times = tmp_path / "phone.mkv", [0.0, 0.033, 0.067, 0.1, 0.5, 0.9, 1.3, 2.9]
    with av.open(str(source), "w") as container:
        pictures = container.add_stream("mpeg4", rate=30)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        pictures.codec_context.time_base = Fraction(1, 1000)
        for shade, time in enumerate(times):
            array = np.full((48, 64, 3), shade * 20, np.uint8)
            frame = av.VideoFrame.from_ndarray(array, format="bgr24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode())
    with videos(OverlayNames(tmp_path), stride=1) as write:
        for result in results_of(source):
            write(result)
    with av.open(str(tmp_path / "phone.overlay.mp4")) as copy:
        assert copy.streams.video[0].codec.name == "h264"
        shown = [float(frame.pts * frame.time_base) for frame in copy.decode(video=0)]
    assert shown == pytest.approx(times, abs=2e-3)


def test_each_video_has_its_own_copy(tmp_path, capsys):
    sources = [film_of(tmp_path / name) for name in ("a.mp4", "b.mp4")]
    with videos(OverlayNames(tmp_path / "out"), stride=1) as write:
        for source in sources:
            for result in results_of(source):
                write(result)
            write(Failure(source=str(source), index=12, error=ImageError("cut")))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a.overlay.mp4", "b.overlay.mp4"]


def test_a_broken_run_leaves_no_half_video(tmp_path, capsys):
    source = film_of(tmp_path / "site.mp4")
    with (
        pytest.raises(ZeroDivisionError),
        videos(OverlayNames(tmp_path / "out"), stride=1) as write,
    ):
        write(next(iter(results_of(source))))
        raise ZeroDivisionError
    assert not list((tmp_path / "out").iterdir())


def test_texts_of_different_length_fit_one_video(tmp_path, capsys):
    source = film_of(tmp_path / "site.mp4", num_frames=3)
    with videos(OverlayNames(tmp_path), stride=1) as write:
        for frame in iter_frames(str(source)):
            text = "a helmet " * (1 + 4 * frame.index)
            result = TextResult(
                image_hw=frame.image_hw,
                text=text,
                source=frame.source,
                frame_index=frame.index,
                time=frame.time,
            )
            write(result.with_image(frame.bgr))
    assert video_info(tmp_path / "site.overlay.mp4").num_frames == 3
