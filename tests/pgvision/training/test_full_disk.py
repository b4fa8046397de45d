"""A disk that is full at any write of a resumed run: error, previous checkpoint, resume."""

import json
import shutil
import subprocess
import sys

import pytest

# Preloaded: from the FULL_AT-th write into FULL_FOLDER on, the system call fails with ENOSPC, be it
# Python's, Rust's (safetensors) or C++'s (torch).
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int count;

static int is_full(int fd) {
  const char *folder = getenv("FULL_FOLDER"), *at = getenv("FULL_AT"), *log = getenv("FULL_LOG");
  char link[64], path[4096];
  if (!folder || !at) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return 0;
  path[size] = 0;
  if (strncmp(path, folder, strlen(folder))) return 0;
  count++;
  if (log) {
    FILE *file = fopen(log, "a");
    fprintf(file, "%s\n", path);
    fclose(file);
  }
  return count >= atoi(at);
}

ssize_t write(int fd, const void *data, size_t size) {
  static ssize_t (*next)(int, const void *, size_t);
  if (!next) next = dlsym(RTLD_NEXT, "write");
  if (is_full(fd)) { errno = ENOSPC; return -1; }
  return next(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
  static ssize_t (*next)(int, const struct iovec *, int);
  if (!next) next = dlsym(RTLD_NEXT, "writev");
  if (is_full(fd)) { errno = ENOSPC; return -1; }
  return next(fd, parts, n);
}
"""

# Runs are forks of one process, so that libraries are imported once. Prints a line for each write
# that fails: the file, the error, whether the earlier checkpoint is intact, and whether the resumed
# run has the losses and the weights of the undisturbed one.
SCRIPT = """
import hashlib, json, os, shutil, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from pgvision.training import train

scenes, work = sys.argv[1], Path(sys.argv[2])

def run(out, at):
    os.environ.update(FULL_FOLDER=str(out), FULL_AT=str(at))
    child = os.fork()
    if not child:
        error = None
        try:
            train(scenes, out, model="tiny", steps=2, batch_size=2, eval_limit=1, eval_every=1,
                  device="cpu", dtype="float32", progress=False, keep_states=True)
        except BaseException as problem:
            error = [type(problem).__name__, str(problem)]
        (work / "error.json").write_text(json.dumps(error))
        os._exit(0)
    os.waitpid(child, 0)
    return json.loads((work / "error.json").read_text())

def digests(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

def outcome(out):
    rows = (out / "results.csv").read_text().splitlines()
    place = rows[0].split(",").index("loss")
    return [row.split(",")[place] for row in rows], digests(out)["model.safetensors"]

# 1. An undisturbed run, and its state after the first step.
whole, start, out = work / "whole", work / "start", work / "out"
assert run(whole, 10**9) is None
start.mkdir()
shutil.copytree(whole / "checkpoint-1", start / "checkpoint-1")
record = json.loads((whole / "run.json").read_text())
del record["report"]
(start / "run.json").write_text(json.dumps(record))
# 2. Its writes; of each file the first and the last are to fail.
shutil.copytree(start, out)
os.environ["FULL_LOG"] = str(work / "writes.log")
assert run(out, 10**9) is None and outcome(out) == outcome(whole)
del os.environ["FULL_LOG"]
writes = (work / "writes.log").read_text().splitlines()
chosen = [k for k in range(len(writes)) if k in (0, len(writes) - 1)
          or writes[k] != writes[k - 1] or writes[k] != writes[k + 1]]
# 3. Fail, look, resume.
for at in chosen:
    shutil.rmtree(out)
    shutil.copytree(start, out)
    error = run(out, at + 1)
    intact = digests(out / "checkpoint-1") == digests(start / "checkpoint-1")
    resumed = run(out, 10**9)
    equal = resumed is None and outcome(out) == outcome(whole)
    print(json.dumps([writes[at], error, intact, resumed, equal]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_write_that_fails_is_an_error_and_the_run_resumes(scenes, tmp_path):
    source, shim = tmp_path / "full.c", tmp_path / "full.so"
    source.write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
    command = ["env", f"LD_PRELOAD={shim}", sys.executable, "-c", SCRIPT, scenes, tmp_path]
    found = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert found.returncode == 0, found.stderr[-2000:]
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    names = {path.rpartition("/")[2] for path, *_ in rows}
    assert names >= {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}
    assert len(rows) > 20
    bad = [
        row
        for row in rows
        if not (
            row[1] is not None
            and row[1][0] == "CheckpointError"
            and str(tmp_path / "out") in row[1][1]
            and "make room" in row[1][1]
            and row[2:] == [True, None, True]
        )
    ]
    assert not bad, bad
