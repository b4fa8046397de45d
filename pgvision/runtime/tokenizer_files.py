"""Reads a checkpoint's tokenizer. Needs transformers, and no torch."""

import json
from pathlib import Path
from typing import Any

from pgvision.hub import fetch_file


def read_tokenizer(source: str, revision: str | None) -> Any:
    """Read a tokenizer from its one file where there is one.

    transformers itself reads Gemma's 34 MB three times over.

    Args:
        source: Folder or hub id.
        revision: Of the hub.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    table, settings = (
        _find(source, name, revision) for name in ("tokenizer.json", "tokenizer_config.json")
    )
    if table is None or settings is None:
        return AutoTokenizer.from_pretrained(source, revision=revision)
    content = json.loads(settings.read_text(encoding="utf-8"))
    named = {key: content.get(key) for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
    specials = {
        key: token["content"] if isinstance(token, dict) else token
        for key, token in named.items()
        if token is not None
    }
    return PreTrainedTokenizerFast(
        tokenizer_file=str(table),
        padding_side="left",
        clean_up_tokenization_spaces=False,
        **specials,
    )


def _find(source: str, name: str, revision: str | None) -> Path | None:
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.is_file() else None
    return fetch_file(source, name, revision)
