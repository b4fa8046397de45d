"""One engine for several threads, and for calls inside calls."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pgvision.runtime import Engine, Picture, Request, open_engine
from pgvision.tokens import AnswerForm

FORM = AnswerForm(task="detect", labels=("helmet",))


def requests(seed: int) -> list[Request]:
    """One picture that all threads share, and seven of their own."""
    shared = np.full((20, 30, 3), 128, np.uint8)
    own = np.random.default_rng(seed).integers(0, 256, (7, 20, 30, 3), np.uint8)
    return [
        Request(picture=Picture(image), prefix="detect helmet", form=FORM, max_new_tokens=8)
        for image in (shared, *own)
    ]


def test_threads_get_the_answers_that_they_get_alone(
    any_engine: Engine, monkeypatch: object
) -> None:
    # Room for three pictures: every call evicts what others are about to use.
    monkeypatch.setattr("pgvision.runtime.engine._REMEMBERED_BYTES", 3 * 100 * 48 * 4)
    any_engine.forget_images()
    alone = {
        seed: [
            one.token_ids.tolist()
            for _, one in sorted(any_engine.generate(requests(seed)), key=lambda pair: pair[0])
        ]
        for seed in range(4)
    }
    wrong: list[object] = []

    def work(seed: int) -> None:
        try:
            for _ in range(3):
                found = sorted(any_engine.generate(requests(seed)), key=lambda pair: pair[0])
                if [one.token_ids.tolist() for _, one in found] != alone[seed]:
                    wrong.append(seed)
        except Exception as error:  # noqa: BLE001  (a thread's error would be lost)
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_call_inside_a_call(any_engine: Engine) -> None:
    """A caption of each picture while a stream of detections is half-way."""
    outer = requests(9)
    (plain,) = [one for _, one in any_engine.generate(outer[:1])]
    got = []
    for number, answer in any_engine.generate(outer, batch_size=2):
        ((_, inner),) = any_engine.generate(outer[:1])
        assert inner.token_ids.tolist() == plain.token_ids.tolist()
        got.append((number, answer.finished))
    assert sorted(number for number, _ in got) == list(range(8))


def test_threads_encode_their_own_images() -> None:
    """The default model: OpenVINO's compiled model has one set of tensors for all threads."""
    backend = open_engine("small").backend
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    alone = [backend.encode([image])[0] for image in images]

    def is_own(index: int) -> bool:
        return np.array_equal(backend.encode([images[index]])[0], alone[index])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(is_own, [0, 1, 2, 3] * 3))
