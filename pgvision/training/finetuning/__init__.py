"""Fine-tuning on one's own data, on transformers' Trainer; it ends in AP, not in a loss.

Needs the extra ``train`` (accelerate, and peft for LoRA).
"""

from pgvision.training.finetuning.runs import FinetuneReport, finetune
from pgvision.training.finetuning.settings import FinetuneSettings

__all__ = ["FinetuneReport", "FinetuneSettings", "finetune"]
