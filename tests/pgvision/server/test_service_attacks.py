"""Small requests that once stopped the service, over real sockets; see `attacks.py`.

Before (98ba271): 2,000,000 numbers as names 35 s and an answer of 115 MB, 60,000 names 66 s,
12 transparent PNGs 15.4 GB, 64 half-sent bodies closed the service as long as they were held, 45
requests to a slow host closed it for 20 s and more, 4000 Label Studio tasks 31 s.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import attacks

CPU_SECONDS = 3.0


@pytest.fixture(scope="module")
def host():
    """A host that hardly sends."""
    with attacks.dripping() as where:
        yield where


@pytest.fixture(scope="module")
def victim(host):
    """A service in its own process; its address and process id."""
    with attacks.served("--allow-host", host, "--deadline", "8") as found:
        yield found


@pytest.mark.parametrize(
    ("attack", "status"),
    [
        (attacks.numbers_as_names, 422),
        (attacks.many_names, 422),
        (attacks.a_long_name, 422),
        (attacks.many_fields, 422),
        (attacks.many_tasks, 422),
    ],
)
def test_large_bodies_cost_little_and_get_a_small_answer(victim, attack, status):
    address, pid = victim
    before, began = attacks.memory(pid), attacks.cpu(pid)
    found = attack(address)
    assert attacks.cpu(pid) - began < CPU_SECONDS
    assert found["status"] == status
    assert found["bytes of the answer"] < 2000
    assert attacks.memory(pid) - before < 300


def test_half_sent_bodies_take_no_place(victim):
    address, _ = victim
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(attacks.half_bodies, address, "/setup", 6.0)
        time.sleep(0.5)
        assert attacks.ask(address)[0] == 200
        assert not held.done()
        held.result()


@pytest.mark.slow
def test_large_images_wait_for_room():
    with attacks.served() as (address, pid):
        attacks.ask(address)
        found = attacks.large_images(address)
        assert set(found["statuses"]) <= {200, 504}
        assert attacks.memory(pid) < 3000


def test_a_slow_host_costs_its_own_requests_alone(victim, host):
    address, _ = victim
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(attacks.slow_host, address, host, 30.0)
        time.sleep(0.5)
        assert attacks.ask(address)[0] == 200
        assert not held.done()
        found = held.result()
    assert found["answered"] == 45
    assert set(found["statuses"]) <= {422, 504}


def test_slow_headers_are_cut_off(victim):
    """Connections that send no header, or a byte of it at a time, stayed open for ever."""
    found = attacks.slow_headers(victim[0], seconds=20.0)
    assert found["answered"] == 1  # the first request of the connection that was kept alive
    assert found["other status"] == 200
    assert found["open"] == 0
    assert found["seconds"] < 15.0
