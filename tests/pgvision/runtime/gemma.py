"""Gemma's own tokenizer, as far as some texts need it: recorded in ``gemma.json``, rebuilt here.

The table (34 MB, 256,000 pieces, 580,604 merges) cannot be carried. For the texts below
``gemma.json`` holds their ids, and every piece and merge that its byte-pair encoding looks at on
the way, so that a tokenizer of these alone writes the same ids. Other texts come out as letters.

To record again (it also compares the rebuilt tokenizer with the whole one)::

    python tests/pgvision/runtime/gemma.py FOLDER_OF_THE_TOKENIZER
"""

import json
import sys
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

RECORD = Path(__file__).with_suffix(".json")
NUM_PIECES = 256_000
LANGUAGES = (
    "ar bn cs da de el en es fa fi fil fr he hi hr hu id it ja ko mi nl no pl pt ro ru sv sw te "
    "th tr uk vi zh"
).split()
BOX = "<loc0256><loc0128><loc0512><loc0384>"
MASK = "".join(f"<seg{code:03d}>" for code in (0, 127, 5, 64) * 4)
LABELS = [
    *("helmet", "safety helmet", "safety", "safe", "head", "hard hat", "driver's helmet"),
    *("t-shirt", "x_ray No. 7", "casque de chantier", "каска", "安全帽", "خوذة", "🦺", "𓀀"),
]
PROMPTS = [
    *("detect helmet", "detect helmet ; head", "segment safety helmet", "segment каска"),
    *("ocr", "describe en", "cap en", "question en three", "the man on the left", "detect 安全帽"),
    *("answer en Where is the cow standing?", "answer de Wie viele Helme?"),
    *("answer en  is it on? choose from: yes \t no", f"caption {BOX}", "detect 🦺 ; 𓀀"),
    *(f"caption {code}" for code in LANGUAGES),
]
TEXTS = [
    *(f"<bos>{prompt}\n" for prompt in PROMPTS),
    *(f"{BOX} {label} ; {BOX} {label}" for label in LABELS),
    *(f"{BOX}{MASK} {label} ; {BOX}{MASK}" for label in LABELS[:2]),
    f"{BOX}{MASK} ; {BOX}{MASK}",
]


def with_paligemmas_tokens(table: Tokenizer) -> PreTrainedTokenizerFast:
    """Add what PaliGemma adds to Gemma's tokenizer."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=table,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([AddedToken(f"<loc{n:04d}>", normalized=False) for n in range(1024)])
    tokenizer.add_tokens([AddedToken(f"<seg{n:03d}>", normalized=False) for n in range(128)])
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    return tokenizer


@cache
def gemma() -> PreTrainedTokenizerFast:
    """Rebuild the tokenizer; each piece has its own id, and what was not recorded is filled up."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    known = {number: piece for piece, number in record["pieces"].items()}
    pieces = {known.get(number, f"unrecorded{number}"): number for number in range(NUM_PIECES)}
    merges = [tuple(merge) for merge in record["merges"]]
    model = models.BPE(pieces, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    table = Tokenizer(model)
    table.normalizer = normalizers.Replace(" ", "▁")
    table.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    special = [known[number] for number in range(4)]
    table.add_special_tokens([AddedToken(one, special=True, normalized=False) for one in special])
    return with_paligemmas_tokens(table)


def facts() -> dict[str, list[int]]:
    """Texts and their ids, from the whole table."""
    found: dict[str, list[int]] = json.loads(RECORD.read_text(encoding="utf-8"))["facts"]
    return found


def _record(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    pieces = content["vocab"]
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(content["merges"])}
    seen: set[tuple[str, str]] = set()
    for text in TEXTS:
        for part in text.replace("<", "\0<").replace(">", ">\0").split("\0"):
            if not part.startswith("<"):
                seen |= _looked_at(part.replace(" ", "▁"), pieces, ranks)
    merges = sorted(seen, key=ranks.__getitem__)
    kept = {f"<0x{byte:02X}>" for byte in range(256)} | {"<pad>", "<eos>", "<bos>", "<unk>"}
    kept |= {piece for merge in merges for piece in (*merge, "".join(merge))}
    kept |= {char for text in TEXTS for char in text.replace(" ", "▁") if char in pieces}
    whole = with_paligemmas_tokens(Tokenizer.from_file(str(folder / "tokenizer.json")))
    found = {text: whole(text, add_special_tokens=False)["input_ids"] for text in TEXTS}
    order = sorted(kept & pieces.keys(), key=pieces.__getitem__)
    lines = {
        "pieces": {piece: pieces[piece] for piece in order},
        "merges": merges,
        "facts": found,
    }
    RECORD.write_text(_by_line(lines), encoding="utf-8")
    gemma.cache_clear()
    for text, ids in found.items():
        assert gemma()(text, add_special_tokens=False)["input_ids"] == ids, text
        assert gemma().decode(ids) == whole.decode(ids), text


def _looked_at(
    text: str, pieces: dict[str, int], ranks: dict[tuple[str, str], int]
) -> set[tuple[str, str]]:
    """Encode a text by hand and return every merge that was possible on the way."""
    parts = [piece for char in text for piece in _letters(char, pieces)]
    seen: set[tuple[str, str]] = set()
    while True:
        pairs = [pair for pair in zip(parts, parts[1:], strict=False) if pair in ranks]
        seen |= set(pairs)
        if not pairs:
            return seen
        best = min(pairs, key=ranks.__getitem__)
        at = next(i for i, pair in enumerate(zip(parts, parts[1:], strict=False)) if pair == best)
        parts[at : at + 2] = ["".join(best)]


def _letters(char: str, pieces: dict[str, int]) -> list[str]:
    return [char] if char in pieces else [f"<0x{byte:02X}>" for byte in char.encode()]


def _by_line(content: dict[str, object]) -> str:
    def one(value: object) -> str:
        return json.dumps(value, ensure_ascii=False)

    parts = []
    for name, value in content.items():
        if name == "facts":
            rows = ",\n".join(f"{one(text)}: {one(ids)}" for text, ids in dict(value).items())
            parts.append(f"{one(name)}: {{\n{rows}\n}}")
        else:
            parts.append(f"{one(name)}: {one(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    _record(Path(sys.argv[1]))
