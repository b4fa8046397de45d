"""`pgvision doctor --engine` against real servers: one right, and one broken in each known way."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
from served import FAULTS, Answering, Desk, serving_model

from pgvision.cli.conformance import ANSWERS, requests
from pgvision.runtime import load


@pytest.fixture(scope="module")
def answering():
    return Answering()


@pytest.fixture
def examine(run, answering):
    def call(fault="none", **how):
        answering.fault = fault
        with serving_model(Desk(answering, **how)) as address:
            ran = run("doctor", "--engine", address, "--json")
        return ran, {check["name"]: check for check in ran.lines}

    return call


def test_what_is_written_down_is_what_our_own_engine_answers():
    """The record is transformers' work; if `tiny` was trained anew: python served.py record."""
    known = json.loads(ANSWERS.read_text(encoding="utf-8"))["answers"]
    found = dict(load("tiny").generate(requests()))
    assert [found[number].text for number in range(len(found))] == known["none"]
    assert set(known) == set(FAULTS) - {"split loc tokens"}


def test_a_right_engine_passes(examine):
    ran, checks = examine()
    assert ran.code == 0, ran.out
    assert {check["status"] for check in checks.values()} == {"ok"}
    assert checks["answers"]["found"] == "100% like the checkpoint's own"


@pytest.mark.parametrize(
    "fault", [f for f in FAULTS if f not in ("none", "split loc tokens", "half-precision output")]
)
def test_each_fault_is_named(examine, fault):
    ran, checks = examine(fault)
    assert ran.code == 1
    assert checks["answers"]["status"] == "fail"
    assert checks["answers"]["found"].startswith(f"{fault}: 100%")
    assert checks["answers"]["fix"]


def test_locations_in_letters_are_named(examine):
    ran, checks = examine("split loc tokens")
    assert ran.code == 1
    assert checks["location tokens"]["status"] == "fail"
    assert checks["location tokens"]["found"].startswith("split: '<' 'loc' '0'")
    assert checks["answers"]["status"] == "ok"


def test_an_output_layer_in_half_precision_is_noted(examine):
    ran, checks = examine("half-precision output")
    assert ran.code == 0
    assert checks["answers"]["status"] == "note"
    assert checks["answers"]["found"].startswith("half-precision output")


def test_weights_in_half_precision_are_no_other_fault(examine, answering):
    """They move boxes a little, and must not be taken for a wrong prompt."""
    answering.model.to(torch.bfloat16)
    try:
        ran, checks = examine()
    finally:
        answering.model = Answering().model
    assert ran.code == 0, ran.out
    assert checks["answers"]["status"] in ("ok", "note")


def test_an_engine_without_probabilities_is_judged_by_its_texts(examine):
    ran, checks = examine("missing bos", logprobs="refused")
    assert checks["answers"]["found"].startswith("missing bos")
    assert checks["log-probabilities"]["status"] == "note"
    assert checks["location tokens"]["status"] == "ok"


class Parrot:
    """A server that is no PaliGemma."""

    def completion(self, body, *, logprobs):
        return {"choices": [{"message": {"content": "I see a construction site."}}]}


def test_another_model_is_no_known_fault(run):
    with serving_model(Desk(Parrot())) as address:
        ran = run("doctor", "--engine", address)
    assert ran.code == 1
    assert "explains it not" in ran.out
    assert "runtime/tiny" in ran.out


def test_nobody_there_is_said(run):
    ran = run("doctor", "--engine", "http://127.0.0.1:9")
    assert ran.code == 1
    assert "is the server running there?" in ran.out
    assert "Traceback" not in ran.err
