"""Settings: what is refused, what a file keeps, what a resume is held to."""

import math
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

from pgvision.errors import OptionError
from pgvision.training import DataSource, TrainConfig
from pgvision.training.config import TrainOptions, load_config, save_config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1, "epochs": 2}, "steps and epochs: give one of"),
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
        ({"negatives": 1.0}, r"negatives: expected a number in \[0, 0.99\]"),
        ({"task": "count"}, "task: expected 'detect' or"),
        ({"four_bit": True}, "four_bit needs lora"),
        ({"keep_adapter": True}, "keep_adapter needs lora"),
        ({"lora": 4, "vision_rate": 0.1}, "vision_rate: with lora only adapters"),
        ({"lora": 4, "keep_adapter": True, "resolution": 224}, "keep_adapter: an adapter has"),
        ({"task": "segment", "closed_set": True}, "closed_set: answers contain boxes only"),
        # Types, as a YAML file or a form may have them.
        ({"steps": "100"}, r"steps: expected a whole number of at least 1, got '100' \(str\)"),
        ({"steps": 2.5}, "steps: expected a whole number"),
        ({"lora": True}, "lora: expected a whole number"),
        ({"augment": "no"}, "augment: expected True or False"),
        ({"learning_rate": math.nan}, "learning_rate: expected a number"),
        ({"minutes": math.inf}, "minutes: expected a number"),
        ({"seed": -1}, "seed: expected a whole number in"),
        ({"workers": -1}, "workers: expected a whole number in"),
        ({"rename": "WBC=cell"}, "rename: expected new names by old ones"),
        ({"rename": {"WBC": 3}}, "rename: expected new names by old ones"),
        ({"report_to": 3}, "report_to: expected text"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        TrainConfig(**options)


def test_without_a_length_a_run_has_ten_minutes():
    assert TrainConfig().minutes == 10.0
    assert TrainConfig(steps=3).minutes is None


def test_the_keyword_arguments_are_the_settings():
    assert get_type_hints(TrainOptions).keys() == {one.name for one in fields(TrainConfig)}


def test_a_folder_is_a_model_and_none_is_the_default():
    assert TrainConfig(model=Path("runs/a")).model == "runs/a"
    plain = TrainConfig(batch_size=None, rename=None, negatives=None)
    assert (plain.batch_size, plain.rename, plain.negatives) == (8, {}, 0.15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0}, "weight: expected a number"), ({"weight": "2"}, "weight: expected a num"),
        ({"task": "mix"}, "task: expected 'detect'"), ({"split": 3}, "split: expected text"),
        ({"valid_images": "a"}, "valid_images: give valid"), ({"data": None}, "data: expected"),
    ],
)  # fmt: skip
def test_a_source_with_errors_names_them(options, message):
    with pytest.raises(OptionError, match=message):
        DataSource(**{"data": Path("a"), **options})


def test_numbers_of_a_file_may_have_an_exponent_without_a_point(tmp_path):
    (tmp_path / "run.yaml").write_text("learning_rate: 1e-4\nloc_sigma: 2E+0\nmodel: 1e-4x\n")
    _, settings = load_config(tmp_path / "run.yaml")
    assert settings == {"learning_rate": 1e-4, "loc_sigma": 2.0, "model": "1e-4x"}


def test_a_file_repeats_a_run(tmp_path):
    config = TrainConfig(steps=7, lora=4, report_to="wandb", rename={"WBC": "cell"})
    sources = (DataSource(data=Path("a"), weight=2.0), DataSource(data=Path("b"), task="ask"))
    save_config(tmp_path / "run.yaml", config, sources)
    again, settings = load_config(tmp_path / "run.yaml")
    assert again == sources and TrainConfig(**settings) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 3", "stepz: .*run.yaml has no such option; did you mean steps="),
        ("3: 3", "3: .*run.yaml has no such option"),
        ("data: [{dataa: x}]", "dataa: data in .*run.yaml has no such option"),
        ("data: [{images: x}]", "data: expected the path of a data set"),
        ("data: 5", "data: expected the path of a data set, got 5"),
        ("data: [[a]]", "data: expected the path of a data set"),
        ("- 3", "expected settings by name"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_file_with_errors_names_them(tmp_path, text, message):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(OptionError, match=message):
        load_config(tmp_path / "run.yaml")


def test_a_resume_is_held_to_what_changes_the_mathematics():
    one = TrainConfig(steps=10, batch_size=8).identity(1)
    for other in (
        TrainConfig(steps=20, batch_size=4, accumulation=2, eval_limit=3, checkpointing=True),
        TrainConfig(minutes=3, patience=2, keep_states=True, workers=2),
    ):
        assert other.identity(1) == one
    assert TrainConfig(batch_size=4).identity(2) == one
    for other in (TrainConfig(seed=1), TrainConfig(batch_size=4), TrainConfig(resolution=224)):
        assert other.identity(1) != one


@pytest.mark.parametrize(
    ("kind", "options", "is_known", "rate"),
    [
        ("tiny", {}, False, 5e-4), ("tiny", {}, True, 1e-4), ("pt", {}, False, 1e-5),
        ("pt", {"lora": 8}, False, 2e-4), ("mix", {"learning_rate": 3e-3}, True, 3e-3),
    ],
)  # fmt: skip
def test_the_rate_suits_checkpoint_and_method(kind, options, is_known, rate):
    assert TrainConfig(**options).rate_for(kind, is_known=is_known) == rate
