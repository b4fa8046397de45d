"""An engine over HTTP: a real server around transformers' own passes against the engine here."""

import base64
import itertools
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from served import Answering, Desk, serving_model

from pgvision import Answerer, Detector
from pgvision.errors import CheckpointError, OptionError
from pgvision.http import HttpPolicy
from pgvision.runtime import ObjectSpan, Picture, Remote, Request, find_checkpoint, load
from pgvision.runtime.remote import read_completion
from pgvision.tokens import AnswerForm
from recipes.scenes import render_scene


@pytest.fixture(scope="module")
def answering():
    return Answering()


@pytest.fixture
def desk(answering):
    return Desk(answering)


@pytest.fixture(scope="module")
def pictures():
    return [render_scene(20_000_000 + n, image_hw=(240, 400)).image for n in range(3)]


class Fixed:
    """A server whose answers are written down."""

    def __init__(self, text="a", **choice):
        self.choice = {"message": {"content": text}, "finish_reason": "stop", **choice}

    def completion(self, body, *, logprobs):
        return {"choices": [self.choice]}


def test_a_served_model_answers_as_the_same_model_here(desk, pictures):
    with serving_model(desk) as address:
        there = Detector("helmet", model=address)
        results = there.predict(pictures)
        answer = Answerer(model=address)(pictures[0], "how many workers are there?")
    assert there.kind == "tiny"
    here = Detector("helmet", model="tiny", constrained=False)
    num_objects = 0
    for found, wanted in zip(results, here.predict(pictures), strict=True):
        assert found.raw_text == wanted.raw_text
        assert found.labels == wanted.labels
        np.testing.assert_array_equal(found.xyxy, wanted.xyxy)
        # What is not among the 20 best counts against an object.
        assert (found.scores <= wanted.scores + 1e-4).all()
        assert (found.scores >= wanted.scores - 0.2).all()
        num_objects += len(found)
    assert num_objects > 2
    assert (
        np.corrcoef(
            np.concatenate([one.scores for one in results]),
            np.concatenate([one.scores for one in here.predict(pictures)]),
        )[0, 1]
        > 0.9
    )
    wanted = Answerer(model="tiny")(pictures[0], "how many workers are there?")
    assert answer.text == wanted.text
    assert answer.score == pytest.approx(wanted.score, abs=2e-3)  # ours counts the end as well


def test_the_picture_travels_without_loss_and_the_prompt_as_it_is(pictures):
    desk = Desk(Fixed())
    with serving_model(desk) as address:
        request = Request(
            picture=Picture(pictures[0]), prefix="detect Helm & Ähre", max_new_tokens=7
        )
        (one,) = Remote(address).generate([request])
    assert one[1].text == "a"
    (body,) = desk.bodies
    image, text = body["messages"][0]["content"]
    data = np.frombuffer(base64.b64decode(image["image_url"]["url"][22:]), np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(data, cv2.IMREAD_COLOR), pictures[0])
    assert text == {"type": "text", "text": "detect Helm & Ähre"}
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("tiny", 7, 0.0)


@pytest.mark.parametrize("logprobs", ["refused", "ignored"])
def test_without_probabilities_there_is_no_score(answering, pictures, logprobs):
    desk = Desk(answering, logprobs=logprobs)
    with serving_model(desk) as address:
        engine = Remote(address)
        found = Detector("helmet", generator=engine).predict(pictures[:2])
        with pytest.raises(OptionError, match="conf: .*no probabilities"):
            Detector("helmet", generator=engine, conf=0.3)(pictures[0])
    assert [one.scores is None for one in found if len(one)] == [True]
    assert all(one.presence is None for one in found)
    refused = [body for body in desk.bodies if "logprobs" in body]
    assert len(refused) <= 2 if logprobs == "refused" else len(refused) == len(desk.bodies)


def test_tokens_that_do_not_join_to_the_text_are_not_believed():
    listed = [{"token": "▁helmet", "logprob": -0.1, "top_logprobs": []}]
    one = read_completion(
        {"choices": [{"message": {"content": " helmet"}, "logprobs": {"content": listed}}]}
    )
    assert (one.text, one.logprobs, one.loc_probs, one.spans) == (" helmet", None, None, None)


def test_what_is_not_listed_counts_against_the_object():
    """By hand: four bins of probability 0.9, 0.05 listed beside each, the end not listed."""

    def place(number):
        others = [(number, 0.9), (number + 1, 0.05)]
        tops = [{"token": f"<loc{n:04d}>", "logprob": float(np.log(p))} for n, p in others]
        return {**tops[0], "top_logprobs": tops}

    label = {"token": " helmet", "logprob": float(np.log(0.8)), "top_logprobs": []}
    listed = [*map(place, (100, 200, 300, 400)), label]
    text = "".join(one["token"] for one in listed)
    one = read_completion(
        {"choices": [{"message": {"content": text}, "logprobs": {"content": listed}}]}
    )
    assert one.loc_probs.shape == (4, 1024)
    assert one.loc_probs[1, [200, 201]] == pytest.approx([0.9, 0.05])
    assert one.loc_probs.sum() == pytest.approx(4 * 0.95)
    assert np.exp(one.eos_logprobs[0]) == pytest.approx(0.05)  # 1 - 0.95: the most that is left
    assert one.spans == (ObjectSpan(0, 4, 4, 5, (100, 200, 300, 400)),)


def test_a_busy_server_is_asked_again_and_a_refusal_is_told(pictures):
    desk = Desk(Fixed())
    desk.refusals = [(429, {"Retry-After": "0"}), (503, {})]
    request = Request(picture=Picture(pictures[0]), prefix="ocr")
    with serving_model(desk) as address:
        engine = Remote(address)
        assert [one.text for _, one in engine.generate([request])] == ["a"]
        desk.refusals = [(500, {})]
        with pytest.raises(CheckpointError, match="HTTP 500: .*not now"):
            list(engine.generate([request]))


def test_requests_are_drawn_as_there_is_room(pictures):
    desk, drawn = Desk(Fixed()), []

    def requests():
        for number in range(5):
            drawn.append(number)
            yield Request(picture=Picture(pictures[0]), prefix="ocr")

    with serving_model(desk) as address:
        answers = Remote(address).generate(requests(), batch_size=2)
        first = next(answers)[0]
        assert len(drawn) == 2
        numbers = [first, *(number for number, _ in answers)]
    assert sorted(numbers) == [0, 1, 2, 3, 4]
    assert len(desk.bodies) == 5
    assert desk.most_under_way <= 2


def test_a_key_is_sent(pictures, monkeypatch):
    with serving_model(Desk(Fixed(), key="open sesame")) as address:
        with pytest.raises(CheckpointError, match="401.*PGVISION_ENGINE_KEY"):
            Remote(address)
        assert Remote(address, api_key="open sesame").card.kind == "tiny"
        monkeypatch.setenv("PGVISION_ENGINE_KEY", "open sesame")
        assert Remote(address).card.kind == "tiny"


def test_several_models_are_told_apart_by_name():
    desk = Desk(Fixed())
    desk.names = ["google/paligemma2-3b-mix-224", "google/paligemma-3b-pt-448"]
    with serving_model(desk) as address:
        with pytest.raises(CheckpointError, match="choose one: .*#google/paligemma2-3b-mix-224"):
            Remote(address)
        assert Remote(f"{address}/v1#{desk.names[0]}").card.kind == "mix"
        assert Remote(f"{address}#{desk.names[1]}").card.kind == "pt"
        assert Remote(f"{address}#mine", kind="mix").card.kind == "mix"
    assert find_checkpoint(f"{address}#{desk.names[0]}").sure_kind == "mix"
    assert find_checkpoint(address).sure_kind is None


@pytest.mark.parametrize(
    "reply", [{}, [], {"choices": []}, {"choices": [{"message": {"content": 7}}]}, None, "text"]
)
def test_what_is_no_chat_completion_is_an_error(reply):
    with pytest.raises(CheckpointError, match="expected a"):
        read_completion(reply)


def test_who_leaves_early_does_not_wait_for_the_others(pictures):
    """The loop's end had waited for every request under way: minutes, where the server hangs."""
    go_on, calls = threading.Event(), itertools.count()

    class Hanging(Fixed):
        def completion(self, body, *, logprobs):
            if next(calls) > 0:
                go_on.wait(20)
            return super().completion(body, logprobs=logprobs)

    with serving_model(Desk(Hanging())) as address:
        requests = [Request(picture=Picture(image), prefix="ocr") for image in pictures]
        answers = Remote(address).generate(requests)
        next(answers)
        started = time.perf_counter()
        answers.close()
        assert time.perf_counter() - started < 5
        go_on.set()


@pytest.mark.parametrize("size", [-1, 0, 1.5, True])
def test_batch_sizes_of_a_server_are_whole_numbers_above_zero(size):
    with serving_model(Desk(Fixed())) as address, pytest.raises(OptionError, match="batch_size"):
        list(Remote(address).generate([], batch_size=size))


def test_nobody_at_the_address_is_an_error(pictures):
    with serving_model(Desk(Fixed())) as address:
        engine = Remote(address)
    with pytest.raises(CheckpointError, match="is the server running"):
        Remote(address)
    engine._policy = HttpPolicy(seconds=1.0)
    with pytest.raises(CheckpointError, match="is the server running"):
        list(engine.generate([Request(picture=Picture(pictures[0]), prefix="ocr")]))


@pytest.mark.parametrize(
    "address", ["http://", "ftp://host", "http://me:secret@host/", "http:// a"]
)
def test_addresses_that_are_none_are_refused(address):
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(address)
    assert "secret" not in str(caught.value)
    with pytest.raises(OptionError):
        Remote(address)


def test_what_a_server_decides_or_cannot_do_is_refused(pictures):
    with serving_model(Desk(Fixed())) as address:
        for option in ({"device": "cpu"}, {"dtype": "float32"}, {"revision": "main"}):
            with pytest.raises(OptionError, match=next(iter(option))):
                Detector("helmet", model=address, **option)


def test_a_service_may_stand_before_another_one():
    from pgvision.server.engine import Metrics, Models
    from pgvision.server.settings import ServeSettings

    with serving_model(Desk(Fixed())) as address:
        models = Models(ServeSettings(), None, Metrics())
        assert isinstance(models._load(address), Remote)


def test_no_torch_is_loaded():
    code = (
        "import sys\n"
        "from pgvision import Detector\n"
        "from pgvision.runtime import Remote, open_engine\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_spans_of_pieces_are_those_of_ids(pictures):
    """The grammar's own walk over ids of a real answer, against the walk over its texts."""
    engine = load("tiny")
    form = AnswerForm("segment", ("helmet",))
    request = Request(
        picture=Picture(pictures[0]), prefix="segment helmet", form=form, constrained=False
    )
    ((_, here),) = engine.generate([request])
    listed = [
        {"token": piece, "logprob": float(value), "top_logprobs": []}
        for piece, value in zip(here.pieces, here.logprobs, strict=True)
    ]
    choice = {"message": {"content": here.text}, "logprobs": {"content": listed}}
    assert read_completion({"choices": [choice]}).spans == here.spans != ()
