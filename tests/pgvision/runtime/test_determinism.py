"""The same picture gives the same bytes, whoever shares its batch, its threads or its process."""

import gc
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
import torch

from pgvision import Captioner, Detector
from pgvision.runtime import load, unload
from pgvision.runtime.products import attend, linear
from recipes.scenes import render_scene

SEEDS = range(20_000_000, 20_000_004)


def detected(batch_size, threads, seeds=SEEDS):
    """Boxes with every number that a result has, as text; timings and passes are no answer."""
    detector = Detector(
        ["helmet", "head"],
        model="tiny",
        classes_per_prompt=1,
        extra_objects=2,
        soft=True,
        batch_size=batch_size,
        threads=threads,
    )
    return texts(detector.predict([render_scene(seed).image for seed in seeds]))


def captioned(batch_size, threads, seeds=SEEDS):
    captioner = Captioner(model="tiny", batch_size=batch_size, threads=threads)
    return texts(captioner.predict([render_scene(seed).image for seed in seeds]))


def texts(results):
    found = []
    for result in results:
        data = result.to_dict()
        del data["timings"], data["passes"], data["frame_index"]
        found.append(json.dumps(data))
    return found


@pytest.mark.parametrize("answers", [detected, captioned])
def test_batch_size_and_order_change_no_byte(answers):
    alone = answers(1, 1)
    assert len(set(alone)) == len(SEEDS)
    for batch_size in (3, 8):
        load("tiny").eyes.forget()
        assert answers(batch_size, 1) == alone, batch_size
    assert answers(3, 1, SEEDS[::-1]) == alone[::-1]
    assert answers(8, 1, SEEDS[1:]) == alone[1:]


@pytest.mark.slow  # more threads than cores wait for each other
@pytest.mark.parametrize("answers", [detected, captioned])
def test_threads_change_no_byte(answers):
    alone = answers(1, 1)
    for batch_size, threads in ((8, 4), (1, 4), (3, 2)):
        load("tiny").eyes.forget()
        assert answers(batch_size, threads) == alone, (batch_size, threads)


@pytest.mark.slow  # a process that loads everything anew
def test_a_process_of_its_own_gives_the_same_bytes(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import test_determinism as here\n"
        "print('\\n'.join(here.detected(3, 1)))"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "4"}
    folder = os.path.dirname(__file__)  # noqa: PTH120
    done = subprocess.run(
        [sys.executable, "-c", code, folder],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stdout.splitlines() == detected(8, 1)


@pytest.mark.parametrize("threads", [1, 2, 4, 8])
@pytest.mark.parametrize("columns", [1, 3, 64, 576, 1742])
def test_a_row_of_a_product_hangs_on_itself_alone(threads, columns):
    generator = torch.Generator().manual_seed(columns)
    rows = torch.randn(97, 192, generator=generator)
    weight = torch.randn(columns, 192, generator=generator)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = linear(rows, weight)
        torch.set_num_threads(threads)
        for count in (1, 2, 3, 4, 5, 7, 9, 10, 11, 17, 25, 33, 97):
            assert torch.equal(linear(rows[:count], weight), whole[:count])
            assert torch.equal(linear(rows[-count:], weight), whole[-count:])
    finally:
        torch.set_num_threads(before)
    expected = rows.double() @ weight.double().T
    assert torch.allclose(whole.double(), expected, atol=1e-3)


@pytest.mark.parametrize("rows", [(1,), (1, 1), (3,), (2, 1)])
def test_products_in_bfloat16_are_right_to_its_rounding(rows):
    generator = torch.Generator().manual_seed(len(rows))
    hidden = torch.randn(*rows, 2048, generator=generator).bfloat16()
    weight = torch.randn(300, 2048, generator=generator).bfloat16()
    found = linear(hidden, weight)
    assert (found.dtype, found.shape) == (torch.bfloat16, (*rows, 300))
    expected = hidden.double() @ weight.double().T
    assert ((found.double() - expected).abs() <= expected.abs() * 2**-8 + 1e-3).all()


@pytest.mark.parametrize("length", [1, 2, 3, 5, 40])
def test_attention_is_the_same_in_any_number_of_threads(length):
    generator = torch.Generator().manual_seed(length)
    queries = torch.randn(2, 3, length, 64, generator=generator)
    keys, values = torch.randn(2, 2, 1, 121, 64, generator=generator)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = attend(queries, keys, values, None, scale=0.1)
        torch.set_num_threads(4)
        assert torch.equal(attend(queries, keys, values, None, scale=0.1), one)
        assert torch.equal(attend(queries[:1], keys[:1], values[:1], None, scale=0.1), one[:1])
    finally:
        torch.set_num_threads(before)
    weights = ((queries @ keys.transpose(2, 3)) * 0.1).softmax(-1)
    assert torch.allclose(one, weights @ values, atol=1e-5)


def test_threads_that_ask_at_once_get_what_they_get_alone():
    alone = detected(3, 1)
    found = {}

    def ask(number):
        found[number] = detected(2 + number, 1)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(3)] == [alone] * 3


def answer_in_child(connection):
    connection.send(detected(3, 1))
    connection.close()


@pytest.mark.slow  # likewise
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_give_the_same_bytes(method):
    """A fork of a process that has computed in several threads must not hang either."""
    alone = detected(3, 4)
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    child = context.Process(target=answer_in_child, args=(there,))
    child.start()
    assert here.poll(120), "the child hangs"
    assert here.recv() == alone
    child.join()
    here.close()
    there.close()


class Answers(torch.utils.data.Dataset):
    """Answers to one scene each, as a data set that labels while it is read would give them."""

    def __len__(self):
        return len(SEEDS)

    def __getitem__(self, number):
        return detected(1, 1, [SEEDS[number]])[0]


@pytest.mark.slow  # likewise
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader_give_the_same_bytes(method):
    alone = detected(3, 1)
    loader = torch.utils.data.DataLoader(
        Answers(), batch_size=None, num_workers=2, multiprocessing_context=method, timeout=120
    )
    assert list(loader) == alone


def test_results_travel_as_pickles():
    (result,) = Detector("helmet").predict([render_scene(20_000_000).image])
    assert pickle.loads(pickle.dumps(result)) == result


def test_memory_comes_back_when_an_engine_is_dropped():
    detector = Detector("helmet", model="tiny", threads=3)
    weights = weakref.ref(detector.generator)
    detector(np.zeros((40, 60, 3), np.uint8))
    del detector
    assert unload("tiny") >= 1
    gc.collect()
    assert weights() is None
