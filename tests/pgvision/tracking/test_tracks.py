"""Track numbers of objects in videos."""

from pgvision.errors import ImageError
from pgvision.results import DetectionResult, Failure, TextResult
from pgvision.tracking.tracks import with_tracks


def moving(index, *, source="site.mp4", time=0.0):
    """Two boxes that move apart, written in turns so that their order says nothing."""
    boxes = [[10 + 3 * index, 10, 40 + 3 * index, 40], [200 - 3 * index, 50, 230 - 3 * index, 80]]
    order = [0, 1] if index % 2 else [1, 0]
    return DetectionResult(
        image_hw=(120, 320),
        xyxy=[boxes[row] for row in order],
        scores=[0.9, 0.4],
        labels=[("left", "right")[row] for row in order],
        class_ids=[-1, -1],
        classes=["helmet"],
        source=source,
        frame_index=index,
        time=time,
    )


def test_an_object_keeps_its_number_whatever_the_order():
    before = [moving(index) for index in range(8)]
    after = list(with_tracks(before))
    ids = {"left": set(), "right": set()}
    for old, new in zip(before, after, strict=True):
        assert (new.xyxy == old.xyxy).all()
        assert new.labels == old.labels
        for label, number in zip(new.labels, new.tracker_ids.tolist(), strict=True):
            if number >= 0:
                ids[label].add(number)
    assert len(ids["left"]) == len(ids["right"]) == 1
    assert ids["left"] != ids["right"]


def test_a_video_that_comes_again_has_tracks_of_its_own():
    video = [moving(index, time=index / 25) for index in range(6)]
    first, second = [], []
    for result in with_tracks([*video, *video]):
        (first if len(first) < 6 else second).append(set(result.tracker_ids.tolist()) - {-1})
    assert first == second


def test_unknown_scores_can_be_tracked_too():
    results = [moving(index)[:1] for index in range(1, 8, 2)]
    bare = [DetectionResult.from_dict(r.to_dict() | {"scores": None}) for r in results]
    last = list(with_tracks(bare))[-1]
    assert last.tracker_ids.tolist()[0] >= 0
    assert last.scores is None


def test_pictures_texts_and_failures_pass_unnumbered():
    still = moving(0, time=None)
    failure = Failure(source="b.jpg", index=0, error=ImageError("b.jpg: 0 bytes"))
    text = TextResult(image_hw=(4, 6), text="EXIT")
    assert list(with_tracks([still, failure, text])) == [still, failure, text]


def test_empty_frames_have_no_numbers():
    results = [moving(0), moving(1)[:0], moving(2)]
    assert [len(r.tracker_ids) for r in with_tracks(results)] == [2, 0, 2]


def test_objects_without_a_track_have_minus_one_and_stills_are_warned_of_once(caplog):
    # A track begins with its second frame.
    first, second = with_tracks([moving(0), moving(1, time=0.1)])
    assert set(first.tracker_ids.tolist()) | set(second.tracker_ids.tolist()) <= {-1, 0, 1, 2}
    assert (first.tracker_ids >= -1).all() and (second.tracker_ids >= 0).all()
    list(with_tracks([moving(0, time=None), moving(1, time=None)]))
    assert [text for text in caplog.messages if "tracks need a video" in text] == [
        "tracks need a video: objects of single images are not tracked"
    ]


def test_each_video_has_tracks_of_its_own():
    first = [moving(index, source="a.mp4", time=index / 10) for index in range(4)]
    second = [moving(index + 9, source="b.mp4", time=index / 10) for index in range(4)]
    alone = [one.tracker_ids.tolist() for one in with_tracks(second)]
    together = [one.tracker_ids.tolist() for one in with_tracks([*first, *second])]
    assert together[4:] == alone
