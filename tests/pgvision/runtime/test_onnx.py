"""The carried checkpoint through onnxruntime: same tokens and scores as here, and no torch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pgvision import Answerer, Detector
from pgvision.errors import CheckpointError, OptionError
from pgvision.runtime import Picture, Request, load, open_generator
from pgvision.runtime.onnx_export import export_onnx
from pgvision.tokens import AnswerForm
from recipes.scenes import render_scene

pytestmark = pytest.mark.slow  # the export alone takes half a minute


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return export_onnx("tiny", tmp_path_factory.mktemp("onnx") / "tiny")


@pytest.fixture(scope="module")
def pictures():
    sizes = [(240, 400), (160, 160), (333, 211)]
    return [render_scene(20_000_000 + n, image_hw=size).image for n, size in enumerate(sizes)]


REQUESTS = {
    "free": {"prefix": "caption en"},
    "held": {"prefix": "detect helmet", "form": AnswerForm("detect", ("helmet",))},
    "masks": {"prefix": "segment worker", "form": AnswerForm("segment", ("worker",))},
    "open": {"prefix": "detect worker", "form": AnswerForm("detect")},
    "more": {"prefix": "detect head", "form": AnswerForm("detect", ("head",), past_end=2)},
    "drawn": {"prefix": "caption en", "temperature": 0.8, "seed": 3},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_tokens_and_probabilities_are_those_of_torch(folder, pictures, name):
    engine, torch_engine = open_generator(folder), load("tiny")
    requests = [Request(picture=Picture(one), **REQUESTS[name]) for one in pictures]
    mine, theirs = dict(engine.generate(requests)), dict(torch_engine.generate(requests))
    for number, wanted in theirs.items():
        found = mine[number]
        assert found.token_ids.tolist() == wanted.token_ids.tolist()
        assert (found.text, found.spans) == (wanted.text, wanted.spans)
        assert (found.finished, found.passes) == (wanted.finished, wanted.passes)
        for field in ("logprobs", "eos_logprobs", "loc_probs", "seg_probs", "outside"):
            one, other = getattr(found, field), getattr(wanted, field)
            if other is not None:
                np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-4, err_msg=field)
    assert sum(len(one.token_ids) for one in mine.values()) > 10


@pytest.mark.parametrize("drafts", ["exact", "steady"])
def test_drafts_are_kept_as_torch_keeps_them(folder, pictures, drafts):
    form = AnswerForm("detect", ("worker",))
    first = Request(picture=Picture(pictures[0]), prefix="detect worker", form=form)
    ((_, guess),) = load("tiny").generate([first])
    again = Request(
        picture=Picture(np.roll(pictures[0], 3, axis=1)),
        prefix="detect worker",
        form=form,
        draft=guess.token_ids,
        drafts=drafts,
    )
    ((_, found),) = open_generator(folder).generate([again])
    ((_, wanted),) = load("tiny").generate([again])
    assert found.token_ids.tolist() == wanted.token_ids.tolist()
    assert found.passes == wanted.passes < len(found.token_ids) - found.forced.sum()


def test_tasks_take_the_folder(folder, pictures):
    found = Detector("worker", model=folder, conf=0.3).predict(pictures)
    wanted = Detector("worker", model="tiny", conf=0.3).predict(pictures)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one.xyxy, other.xyxy)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-3)
    assert sum(map(len, found)) > 2
    question = "how many workers are there?"
    answers = [Answerer(model=name)(pictures[0], question).text for name in (folder, "tiny")]
    assert answers[0] == answers[1]


def test_no_torch_is_needed(folder, tmp_path):
    code = (
        "import sys\n"
        "sys.modules['torch'] = None  # as if it were not installed\n"
        "import json\n"
        "from pgvision import Detector\n"
        "from recipes.scenes import render_scene\n"
        "image = render_scene(20_000_000, image_hw=(240, 400)).image\n"
        f"print(json.dumps(Detector('worker', model={str(folder)!r})(image).xyxy.tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    image = render_scene(20_000_000, image_hw=(240, 400)).image
    assert json.loads(done.stdout) == Detector("worker", model="tiny")(image).xyxy.tolist()


def test_what_an_export_cannot_do_is_refused(folder, pictures):
    for option in ({"device": "cuda"}, {"quantize": "int8"}, {"revision": "main"}):
        with pytest.raises(OptionError, match=next(iter(option))):
            open_generator(folder, **option)
    with pytest.raises(OptionError, match="num_alternatives"):
        Answerer(model=folder, num_alternatives=2)(pictures[0], "is there a truck?")
    with pytest.raises(OptionError, match="new or an empty folder"):
        export_onnx("tiny", folder)
    with pytest.raises(CheckpointError, match="is an export"):
        load(folder)
    with pytest.raises(OptionError, match="weights: expected one of float32"):
        export_onnx("tiny", folder.parent / "new", weights="int3")


def test_doctor_looks_at_an_export_and_bench_says_what_it_needs(folder):
    from typer.testing import CliRunner

    from pgvision.cli.app import app

    said = CliRunner().invoke(app, ["doctor", "--model", str(folder), "--json"]).stdout
    checks = {one["name"]: one for one in map(json.loads, said.splitlines())}
    assert "exported; onnxruntime" in checks["checkpoint"]["found"]
    assert checks["answer"]["status"] == checks["mask codec"]["status"] == "ok"
    with pytest.raises(CheckpointError, match="needs the checkpoint that it was made of"):
        CliRunner().invoke(app, ["bench", "--model", str(folder)], catch_exceptions=False)


def test_a_broken_export_is_said(folder, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "decoder.onnx").write_bytes(b"\x08\x07 no graph")
    with pytest.raises(CheckpointError, match="export again"):
        open_generator(broken)
    assert Path(folder, "decoder.onnx").stat().st_size > 10**6


@pytest.mark.parametrize("family", ["gemma", "gemma2"])
def test_both_families_answer_as_torch_does(family, pictures, tmp_path, save_paligemma):
    """Random weights; Gemma 2 with soft caps, four norms a layer, a window below the prompt."""
    save_paligemma(tmp_path / "paligemma-mix", family)
    mine = open_generator(export_onnx(tmp_path / "paligemma-mix", tmp_path / "out"))
    theirs = load(tmp_path / "paligemma-mix")
    requests = [
        Request(picture=Picture(one), prefix=prefix, form=form, max_new_tokens=24)
        for one in pictures
        for prefix, form in (
            ("caption en", None),
            ("detect helmet", AnswerForm("detect", ("helmet",), past_end=1)),
            ("what color is the helmet", None),
        )
    ]
    found, wanted = dict(mine.generate(requests)), dict(theirs.generate(requests))
    for number, one in wanted.items():
        assert found[number].token_ids.tolist() == one.token_ids.tolist()
        np.testing.assert_allclose(found[number].logprobs, one.logprobs, rtol=2e-3, atol=2e-4)
    assert sum(len(one.token_ids) for one in wanted.values()) > 50


def test_halves_are_exact_and_int8_is_small(pictures, tmp_path):
    """The carried weights are float16: an export that keeps them answers the same to the bit."""
    folders = {
        form: export_onnx("tiny", tmp_path / form, weights=form) for form in ("float32", "int8")
    }
    half = export_onnx("tiny", tmp_path / "half")
    requests = [Request(picture=Picture(one), prefix="caption en") for one in pictures]
    exact, same = (
        dict(open_generator(folder).generate(requests)) for folder in (folders["float32"], half)
    )
    for number, one in exact.items():
        assert np.array_equal(one.logprobs, same[number].logprobs)
    sizes = {
        name: sum(file.stat().st_size for file in folder.iterdir())
        for name, folder in {**folders, "half": half}.items()
    }
    assert sizes["half"] < 0.55 * sizes["float32"]
    assert sizes["int8"] < 0.45 * sizes["float32"]
    assert all(answer.text for _, answer in open_generator(folders["int8"]).generate(requests))
