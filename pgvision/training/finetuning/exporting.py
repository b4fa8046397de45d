"""What a run leaves: a folder that pgvision and plain transformers load, with its card."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from pgvision import __version__
from pgvision.evaluation import Calibration
from pgvision.files import replaced_path, write_text
from pgvision.runtime.checkpoints import CheckpointCard
from pgvision.training.cards import save_card
from pgvision.training.finetuning.models import adapter_config, prepare
from pgvision.training.finetuning.settings import FinetuneSettings

CALIBRATION_NAME: Final = "calibration.json"


def export(
    model: Any, processor: Any, card: CheckpointCard, settings: FinetuneSettings, folder: Path
) -> None:
    """Write weights, processor and ``pgvision.json``; the card comes last.

    Args:
        model: With its trained weights; adapters are merged here unless they are kept apart.
        processor: Of the model.
        card: What it is.
        settings: The run.
        folder: Where to.
    """
    if settings.method == "qlora" and not settings.keep_adapter:
        model = _over_whole_weights(model, settings)
    if settings.keep_adapter and settings.method != "full":
        _write_adapter(model, card, settings, folder)
    else:
        _merge(model)
        model.to(getattr(model.config, "dtype", None) or torch.float32)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    save_card(folder, card)


def _over_whole_weights(model: Any, settings: FinetuneSettings) -> Any:
    """Put adapters that were trained over 4-bit weights beside the weights as they were."""
    is_half = model.get_input_embeddings().weight.dtype == torch.bfloat16
    as_lora = replace(settings, method="lora", dtype="bfloat16" if is_half else "float32")
    whole = prepare(as_lora, device="cpu").model
    for name, weight in whole.named_parameters():
        if weight.requires_grad:
            weight.data.copy_(model.get_parameter(name).data)
    return whole


def _merge(model: Any) -> None:
    """Fold adapters into the weights beside which they stand."""
    try:
        from peft.tuners.lora import LoraLayer
    except ImportError:
        return
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())


def _write_adapter(
    model: Any, card: CheckpointCard, settings: FinetuneSettings, folder: Path
) -> None:
    config = adapter_config(settings)
    config.base_model_name_or_path = card.location
    config.inference_mode = True
    weights = {
        "base_model.model." + name.replace(".default", ""): weight.detach().contiguous()
        for name, weight in model.named_parameters()
        if "lora_" in name
    }
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)


def write_curves(curve: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write ``curve.csv`` and ``curve.png``: the loss and the main figure by step."""
    text = io.StringIO()
    writer = csv.writer(text)
    names = sorted({name for line in curve for name in line.get("figures") or {}})
    writer.writerow(["step", "seconds", "loss", "rate", *names])
    for line in curve:
        figures = line.get("figures") or {}
        plain = [line.get(name, "") for name in ("step", "seconds", "loss", "rate")]
        writer.writerow([*plain, *(figures.get(name, "") for name in names)])
    write_text(folder / "curve.csv", text.getvalue())
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    left = figure.add_subplot()
    losses = [(line["step"], line["loss"]) for line in curve if "loss" in line]
    if losses:
        left.plot(*zip(*losses, strict=True), color="tab:gray", label="loss")
    left.set(xlabel="step", ylabel="loss")
    right = left.twinx()
    for name in names[:6]:
        points = [
            (one["step"], one["figures"][name]) for one in curve if name in one.get("figures", {})
        ]
        right.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    right.set(ylim=(0, 1), ylabel="figures on the validation part")
    if names:
        right.legend(loc="upper left", fontsize="small")
    with replaced_path(folder / "curve.png") as aside:
        figure.savefig(aside, dpi=110, format="png")


def calibration_told(calibration: Calibration | None) -> str:
    """Return what the card says of the calibration."""
    if calibration is None:
        return ""
    return (
        f"{CALIBRATION_NAME} maps scores to precision at IoU 0.5 ({calibration.method}, fitted to "
        f"{calibration.num_fitted} answers on the validation part, which also chose the weights: a "
        "little too kind). It is used where it is asked for: calibrate=, --calibrate."
    )


def knowledge_told(card: CheckpointCard) -> dict[str, str]:
    """Return what the card says of what can be asked: kind, classes, questions, codec."""
    return {
        "prompts": f"those of kind {card.kind!r}",
        "classes": "any" if card.classes is None else ", ".join(card.classes),
        "questions": "any" if card.questions is None else "; ".join(card.questions),
        "codec of masks": card.codec,
    }


def write_model_card(folder: Path, settings: FinetuneSettings, *, told: Mapping[str, Any]) -> None:
    """Write ``README.md``: data, recipe, figures, credits.

    Args:
        folder: The checkpoint.
        settings: The run.
        told: What there is to say, by heading.
    """
    defaults = FinetuneSettings(steps=1).as_json()
    changed = {k: v for k, v in settings.as_json().items() if v != defaults[k] and v is not None}
    rows = [f"# {told['title']}", "", f"Fine-tuned with pgvision {__version__}.", ""]
    for heading, content in (*told.items(), ("settings", changed)):
        if heading == "title":
            continue
        rows += [f"## {heading.capitalize()}", ""]
        if isinstance(content, Mapping):
            rows += [f"- {name}: {value}" for name, value in content.items()]
        else:
            rows.append(str(content))
        rows.append("")
    write_text(folder / "README.md", "\n".join(rows))
