"""Small requests that once stopped the service: their cost in seconds and memory.

    python tests/pgvision/server/attacks.py            # figures of each, as JSON lines

Each attack runs on a service of its own in another process, over real sockets on the loopback,
while a second client asks /healthz and sends ordinary requests. ``PYTHONPATH`` chooses the code.
"""

import base64
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from struct import pack

import httpx2

DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGUlEQVR42mNsaGhgIAUwMZAIRjWMahg6GgDJTAGg"
    "54KQ4AAAAABJRU5ErkJggg=="
)
LIMIT = 120.0  # seconds after which an attack is given up


@contextmanager
def served(*words):
    """Run ``pgvision serve`` as a process; yields its address and process id."""
    command = [sys.executable, "-m", "pgvision", "serve", "--port", "0", "--model", "tiny"]
    process = subprocess.Popen([*command, *words], stderr=subprocess.PIPE, text=True)
    try:
        address = next(
            found[0] for line in process.stderr if (found := re.search(r"http://\S+:\d+", line))
        )
        # Its log must not fill the pipe.
        reader = threading.Thread(target=process.stderr.read, daemon=True)
        reader.start()
        while httpx2.get(f"{address}/readyz", timeout=60).status_code != 200:
            time.sleep(0.1)
        yield address, process.pid
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stderr.close()


def memory(pid):
    """Most memory that the process ever had, in MB."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+)", text)[1]) // 1024


def cpu(pid):
    """Seconds of CPU time that the process has used: the machine's other work does not count."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(address, timeout=LIMIT):
    """Send an ordinary request; returns its status (0: none) and seconds."""
    began = time.monotonic()
    try:
        form = {"files": {"image": ("a.png", DOT)}, "data": {"classes": "helmet"}}
        status = httpx2.post(f"{address}/v1/detect", **form, timeout=timeout).status_code
    except httpx2.HTTPError:
        status = 0
    return status, time.monotonic() - began


class Beside:
    """Another client during an attack: the slowest /healthz, and its own requests."""

    def __init__(self, address):
        self.address, self.worst, self.statuses, self.slowest = address, 0.0, [], 0.0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=each) for each in (self._look, self._ask)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _look(self):
        while not self._stop.wait(0.05):
            began = time.monotonic()
            with suppress(httpx2.HTTPError):
                httpx2.get(f"{self.address}/healthz", timeout=LIMIT)
            self.worst = max(self.worst, time.monotonic() - began)

    def _ask(self):
        while not self._stop.wait(0.2):
            status, seconds = ask(self.address)
            self.statuses.append(status)
            self.slowest = max(self.slowest, seconds)


def post_json(address, path, body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = {"Content-Type": "application/json"}
    with suppress(httpx2.HTTPError):
        sent = httpx2.post(f"{address}{path}", content=data, headers=head, timeout=LIMIT)
        return sent.status_code, len(sent.content)
    return 0, 0


def measured(attack, *words):
    """Run one attack and return its figures."""
    with served(*words) as (address, pid):
        ask(address)
        before, busy = memory(pid), cpu(pid)
        with Beside(address) as beside:
            began = time.monotonic()
            found = attack(address)
            seconds = time.monotonic() - began
        return found | {
            "seconds": round(seconds, 2),
            "CPU seconds": round(cpu(pid) - busy, 2),
            "memory MB, before and most": [before, memory(pid)],
            "slowest /healthz": round(beside.worst, 2),
            "others answered": f"{beside.statuses.count(200)} of {len(beside.statuses)}",
            "slowest other": round(beside.slowest, 2),
        }


# --- the attacks ---------------------------------------------------------------------------------


def numbers_as_names(address):
    """6 MB of JSON in which every class name is a number."""
    image = base64.b64encode(DOT).decode()
    body = {"image": image, "classes": [0] * 2_000_000}
    status, size = post_json(address, "/v1/detect", body)
    return {"status": status, "bytes of the answer": size}


def many_names(address):
    """589 kB of class names, the last one twice."""
    names = [f"name{number}" for number in range(60_000)]
    body = {"image": base64.b64encode(DOT).decode(), "classes": [*names, names[-1]]}
    status, size = post_json(address, "/v1/detect", body)
    return {"status": status, "bytes of the answer": size}


def a_long_name(address):
    """One class name of 5 MB."""
    body = {"image": base64.b64encode(DOT).decode(), "classes": "x" * 5_000_000}
    status, size = post_json(address, "/v1/detect", body)
    return {"status": status, "bytes of the answer": size}


def many_fields(address):
    """JSON with 300,000 unknown fields."""
    body = {"image": "", **{f"a{number}": 1 for number in range(300_000)}}
    status, size = post_json(address, "/v1/detect", body)
    return {"status": status, "bytes of the answer": size}


@lru_cache
def large_png(side):
    """A transparent PNG of side x side pixels, all zero: about 200 kB for 7000 x 7000."""
    header = pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    pack_rows = zlib.compressobj(9)
    rows = b"".join(pack_rows.compress(bytes(1 + 4 * side)) for _ in range(side))
    parts = ((b"IHDR", header), (b"IDAT", rows + pack_rows.flush()), (b"IEND", b""))
    chunks = [pack(">I", len(x)) + k + x + pack(">I", zlib.crc32(k + x)) for k, x in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def large_images(address):
    """12 uploads of 208 kB that decode to 49 megapixels each."""
    png = large_png(7000)

    def send(_):
        form = {"files": {"image": ("a.png", png)}, "data": {"classes": "helmet"}}
        with suppress(httpx2.HTTPError):
            return httpx2.post(f"{address}/v1/detect", **form, timeout=LIMIT).status_code
        return 0

    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(send, range(12)))
    return {"bytes each": len(png), "statuses": statuses}


def connected(address, path, length):
    host, _, port = address.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), 10)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n{{"
    )
    connection.sendall(head.encode())
    return connection


def half_bodies(address, path="/setup", seconds=10.0):
    """64 bodies of which one byte comes."""
    connections = [connected(address, path, 1000) for _ in range(64)]
    time.sleep(seconds)
    for connection in connections:
        connection.close()
    return {"connections": len(connections)}


def slow_headers(address, seconds=20.0):
    """64 connections without a header, or with one that comes byte by byte; one was answered."""
    host, port = address.removeprefix("http://").split(":")
    connections = [socket.create_connection((host, int(port))) for _ in range(64)]
    first = connections[0]
    first.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answered = first.recv(4096).startswith(b"HTTP/1.1 200")
    began, other, left = time.monotonic(), ask(address)[0], connections
    header = iter(b"GET /healthz HTTP/1.1\r\nHost: " + b"a" * 1000)
    while left and time.monotonic() - began < seconds:
        byte, still = bytes([next(header)]), []
        for number, connection in enumerate(left):
            with suppress(OSError):
                if number % 2 == 0 or connection is first:
                    connection.sendall(byte)
                connection.settimeout(0.001)
                with suppress(TimeoutError):
                    if not connection.recv(4096):
                        continue  # the service has closed it
                still.append(connection)
        left = still
        time.sleep(0.2)
    spent = time.monotonic() - began
    for connection in connections:
        connection.close()
    return {
        "answered": int(answered), "other status": other, "open": len(left),
        "seconds": round(spent, 1),
    }  # fmt: skip


@contextmanager
def dripping():
    """A host that sends one byte every two seconds; yields its address."""
    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
        stop = threading.Event()

        def feed(connection):
            with connection, suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while not stop.wait(2.0):
                    connection.sendall(b"x")

        def accept():
            while not stop.is_set():
                with suppress(OSError):
                    threading.Thread(target=feed, args=listener.accept()[:1], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        stop.set()
        with suppress(OSError):
            socket.create_connection(listener.getsockname(), 1).close()


def slow_host(address, host, seconds=15.0):
    """45 requests for images of an allowed host that hardly sends."""
    body = {"image": f"http://{host}/a.jpg", "classes": "helmet"}
    statuses = []

    def send(_):
        with suppress(httpx2.HTTPError):
            sent = httpx2.post(f"{address}/v1/detect", json=body, timeout=seconds)
            statuses.append(sent.status_code)

    with ThreadPoolExecutor(45) as pool:
        list(pool.map(send, range(45)))
    return {"answered": len(statuses), "statuses": sorted(set(statuses))}


def many_tasks(address):
    """One Label Studio request with 4000 tasks."""
    config = '<View><Image name="i" value="$i"/><RectangleLabels name="b" toName="i">'
    config += '<Label value="helmet"/></RectangleLabels></View>'
    image = "data:image/png;base64," + base64.b64encode(DOT).decode()
    body = {"tasks": [{"data": {"i": image}}] * 4000, "label_config": config}
    status, size = post_json(address, "/predict", body)
    return {"status": status, "bytes of the answer": size}


ATTACKS = (
    numbers_as_names, many_names, a_long_name, many_fields, large_images, half_bodies, slow_headers,
    many_tasks,
)  # fmt: skip


def main():
    large_png(7000)
    chosen = sys.argv[1:] or [*(each.__name__ for each in ATTACKS), "slow_host"]
    for name in chosen:
        if name == "slow_host":
            with dripping() as host:
                words = ("--allow-host", host, "--deadline", "5")
                found = measured(lambda address: slow_host(address, host), *words)  # noqa: B023
        else:
            found = measured(globals()[name])
        load = round(os.getloadavg()[0], 1)
        print(json.dumps({"attack": name} | found | {"load": load}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
