"""Ways to break a file: its bytes, the values of its JSON, the headers of a tar file."""

import json
import random
from copy import deepcopy


def broken(data: bytes, dice: random.Random) -> bytes:
    """Bytes with a few flips, cuts, doublings, zeros or numbers at the edges of their types."""
    out = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        at = dice.randrange(len(out) + 1)
        what = dice.randrange(6)
        if what == 0 and at < len(out):
            out[at] ^= 1 << dice.randrange(8)
        elif what == 1:
            del out[at:]
        elif what == 2:
            out[at:at] = out[at : at + dice.randrange(1, 40)]
        elif what == 3:
            out[at : at + 4] = dice.choice((b"\0\0\0\0", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80"))
        elif what == 4:
            del out[at : at + dice.randrange(1, 9)]
        elif what == 5:
            out[at:at] = dice.choice(
                (b"-1", b"1e999", b"null", b"{}", b"[]", b'"', b"../", b"NaN", b"\n", b"9" * 30)
            )
        if not out:
            break
    return bytes(out)


ODD = (
    None, True, -1, 0, 1e308, 10**30, 0.5, "", "a", "../a.png", "/etc/passwd", "a\\\\..\\\\b", "\0",
    [], {}, [[]], [None], {"a": 1}, [1] * 99, "9" * 5000,
)  # fmt: skip


def odd(data: bytes, dice: random.Random) -> bytes:
    """JSON whose form is right and whose values are not: some replaced, left out or doubled."""
    content = json.loads(data)
    for _ in range(dice.choice((1, 1, 2, 3))):
        places = []
        stack = [content]
        while stack:
            one = stack.pop()
            keys = one.keys() if isinstance(one, dict) else range(len(one))
            places += [(one, key) for key in keys]
            stack += [one[key] for key in keys if isinstance(one[key], dict | list)]
        if not places:
            break
        holder, key = dice.choice(places)
        what = dice.randrange(5)
        if what == 0:
            del holder[key]
        elif what == 1 and isinstance(holder, list):
            holder.append(deepcopy(holder[key]))
        else:
            holder[key] = deepcopy(dice.choice(ODD))
    deep = dice.randrange(50) == 0
    return b"[" * 100_000 if deep else json.dumps(content).encode()


def broken_json(data: bytes, dice: random.Random) -> bytes:
    return odd(data, dice) if dice.randrange(2) else broken(data, dice)


def resealed(data: bytes, dice: random.Random) -> bytes:
    """A tar file with odd bytes in a header whose sum fits."""
    out = bytearray(data)
    start = 512 * dice.randrange(4)
    field = dice.choice(((0, 100), (100, 108), (124, 136), (156, 157), (157, 257), (257, 265)))
    at = start + dice.randrange(*field)
    out[at : at + dice.choice((1, 1, 4))] = dice.choice((b"\xff", b"-", b"7", b"\x80", b"/", b"."))
    out = out[: len(data)]
    out[start + 148 : start + 156] = b" " * 8
    out[start + 148 : start + 156] = b"%06o\0 " % sum(out[start : start + 512])
    return bytes(out)
