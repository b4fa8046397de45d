"""Settings: what is refused, what a file keeps, what a resume is held to."""

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
        ({"batch_size": 0}, "batch_size: expected more than 0"),
        ({"negatives": 1.0}, r"negatives: expected a share in \[0, 1\)"),
        ({"task": "count"}, "task: expected one of detect"),
        ({"four_bit": True}, "four_bit needs lora"),
        ({"keep_adapter": True}, "keep_adapter needs lora"),
        ({"num_objects": 4}, "num_objects is for closed_set"),
        ({"lora": 4, "keep_adapter": True, "resolution": 224}, "keep_adapter: an adapter has"),
        ({"task": "segment", "closed_set": True}, "closed_set: answers contain boxes only"),
        ({"mask_loss": 1.0}, "mask_loss: answers of task 'detect'"),
        ({"token_weights": {"loc": -1.0}}, "token_weights: expected numbers from 0 on"),
        ({"token_weights": {"box": 1.0}}, "token_weights"),
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


def test_a_file_repeats_a_run(tmp_path):
    config = TrainConfig(steps=7, lora=4, lora_targets=("q_proj",), rename={"WBC": "cell"})
    sources = (DataSource(data=Path("a"), weight=2.0), DataSource(data=Path("b"), task="ask"))
    save_config(tmp_path / "run.yaml", config, sources)
    again, settings = load_config(tmp_path / "run.yaml")
    assert again == sources and TrainConfig(**settings) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 3", "unknown setting 'stepz'; did you mean 'steps'"),
        ("data: [{dataa: x}]", "data: unknown setting 'dataa'"),
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
