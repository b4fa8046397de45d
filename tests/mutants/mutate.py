"""Plants single faults in the library and reports which the fast tests notice: ``make mutants``.

    python tests/mutants/mutate.py                 # every area, as many faults as AREAS says
    python tests/mutants/mutate.py tokens --count 5 --seed 1

A fault is one changed operator, constant, comparison, index or call in one function. The same
seed plants the same faults. Each runs in a copy of the source, so the working tree is never
touched. Exits with 1 if fewer than ``--goal`` of the faults are noticed; survivors are printed
with their line.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
CALLS = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "floor": "ceil",
    "ceil": "floor",
    "minimum": "maximum",
    "maximum": "minimum",
}


@dataclass(frozen=True)
class Area:
    """Source files, the fast tests that guard them, and how many faults to plant."""

    files: tuple[str, ...]
    tests: tuple[str, ...]
    count: int


T = "tests/pgvision/"
AREAS: dict[str, Area] = {
    "tokens": Area(("pgvision/tokens/*.py",), (f"{T}tokens", "pgvision/tokens"), 25),
    "geometry": Area(
        ("pgvision/boxes.py", "pgvision/masks.py", "pgvision/rle.py"),
        (
            f"{T}test_boxes.py",
            f"{T}test_masks.py",
            "pgvision/boxes.py",
            "pgvision/masks.py",
            "pgvision/rle.py",
        ),
        20,
    ),
    "codec": Area(
        ("vqvae/codec.py", "vqvae/model.py"),
        ("tests/vqvae/test_codec.py", "tests/vqvae/test_codec_step.py", "vqvae"),
        15,
    ),
    "results": Area(("pgvision/results/*.py",), (f"{T}results", "pgvision/results"), 20),
    "datasets": Area(
        ("pgvision/datasets/*.py", "pgvision/coco/*.py"),
        (f"{T}datasets", f"{T}coco", "pgvision/datasets"),
        25,
    ),
    "evaluation": Area(
        ("pgvision/evaluation/*.py",), (f"{T}evaluation", "pgvision/evaluation"), 20
    ),
    "grammar": Area(
        ("pgvision/runtime/grammar.py",),
        (f"{T}runtime/test_token_grammar.py", f"{T}runtime/test_engine.py"),
        15,
    ),
    "tasks": Area(("pgvision/tasks/*.py",), (f"{T}tasks", "pgvision/tasks"), 20),
    "tracking": Area(("pgvision/tracking/*.py",), (f"{T}tracking", "pgvision/tracking"), 10),
    "journal": Area(
        ("pgvision/batch/journal.py", "pgvision/batch/jobs.py"),
        (f"{T}batch/test_bulk_jobs.py", f"{T}batch/test_journal_states.py"),
        15,
    ),
    "training": Area(
        tuple(f"pgvision/training/{one}.py" for one in ("losses", "samples", "data")),
        tuple(f"{T}training/test_{one}.py" for one in ("losses", "samples", "noise", "data")),
        30,
    ),
    "limits": Area(
        ("pgvision/http.py", "pgvision/server/uploads.py", "pgvision/server/fields.py"),
        (
            f"{T}test_http.py",
            *(
                f"{T}server/test_service_{one}.py"
                for one in ("tasks", "refusals", "load", "attacks")
            ),
        ),
        10,
    ),
}


@dataclass(frozen=True)
class Fault:
    """One changed node."""

    file: Path
    line: int
    before: str
    after: str
    source: str  # the whole file with the fault


def faults(file: Path) -> Iterator[Fault]:
    """Yield every single fault of a file, in the order of its nodes."""
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    skipped = {
        id(n)
        for one in ast.walk(tree)
        if isinstance(one, (ast.arg, ast.AnnAssign)) and one.annotation
        for n in ast.walk(one.annotation)
    }
    skipped |= {
        id(n)
        for one in ast.walk(tree)
        if isinstance(one, ast.FunctionDef) and one.returns
        for n in ast.walk(one.returns)
    }
    raised = {
        id(n)
        for one in ast.walk(tree)
        if isinstance(one, (ast.Raise, ast.JoinedStr))
        for n in ast.walk(one)
    }
    skipped |= {id(n) for one in ast.walk(tree) for n in equivalent(one)}
    inside = {
        id(n) for one in ast.walk(tree) if isinstance(one, ast.FunctionDef) for n in ast.walk(one)
    }
    for node in ast.walk(tree):
        if id(node) not in inside or id(node) in skipped or id(node) in raised:
            continue
        for changed in changes(node):
            segment = ast.get_source_segment(text, node)
            if segment is None or changed == segment:
                continue
            yield Fault(file, node.lineno, segment, changed, replaced(text, node, changed))


def equivalent(node: ast.AST) -> Iterator[ast.AST]:
    """Yield parts of a node whose faulty forms behave as before, so that no test can notice."""
    # zip(strict=True) only guards against faults elsewhere.
    if isinstance(node, ast.keyword) and node.arg == "strict":
        yield node.value
    # A random number is never equal to a bound.
    elif isinstance(node, ast.Compare) and "random()" in ast.unparse(node.left):
        yield node


def changes(node: ast.AST) -> Iterator[str]:
    """Yield the faulty forms of one node, as source."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in SWAPS:
        yield ast.unparse(ast.Compare(node.left, [SWAPS[type(node.ops[0])]()], node.comparators))
    elif isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
        if not isinstance(node.left, (ast.Constant, ast.JoinedStr)) or not isinstance(
            node.left.value if isinstance(node.left, ast.Constant) else "", str
        ):
            yield f"({ast.unparse(ast.BinOp(node.left, SWAPS[type(node.op)](), node.right))})"
    elif isinstance(node, ast.BoolOp):
        yield f"({ast.unparse(ast.BoolOp(SWAPS[type(node.op)](), node.values))})"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield f"({ast.unparse(node.operand)})"
    elif (
        isinstance(node, ast.Constant)
        and type(node.value) in (int, float)
        and not isinstance(node.value, bool)
    ):
        yield repr(node.value + 1)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield repr(not node.value)
    elif isinstance(node, ast.Call):
        name = (
            node.func.id
            if isinstance(node.func, ast.Name)
            else node.func.attr
            if isinstance(node.func, ast.Attribute)
            else ""
        )
        if name in CALLS:
            func = (
                ast.Name(CALLS[name])
                if isinstance(node.func, ast.Name)
                else ast.Attribute(node.func.value, CALLS[name])
            )
            yield ast.unparse(ast.Call(func, node.args, node.keywords))
    elif isinstance(node, ast.Slice) and isinstance(node.step, ast.UnaryOp):
        yield ":"
    elif isinstance(node, ast.IfExp):
        yield f"({ast.unparse(ast.IfExp(node.test, node.orelse, node.body))})"


def replaced(text: str, node: ast.AST, new: str) -> str:
    """Return the text with the source of a node replaced."""
    lines = text.splitlines(keepends=True)
    start = len("".join(lines[: node.lineno - 1]).encode()) + node.col_offset
    end = len("".join(lines[: node.end_lineno - 1]).encode()) + node.end_col_offset
    raw = text.encode()
    return (raw[:start] + new.encode() + raw[end:]).decode()


def compiles(fault: Fault) -> bool:
    """Whether the faulty file is valid Python."""
    try:
        compile(fault.source, str(fault.file), "exec")
    except SyntaxError:
        return False
    return True


def chosen(area: Area, count: int, seed: int) -> list[Fault]:
    """Draw faults of an area: files in turn, places by chance."""
    rng = random.Random(seed)
    lists = [sorted(ROOT.glob(pattern)) for pattern in area.files]
    missing = [one for one, found in zip(area.files, lists, strict=True) if not found]
    missing += [one for one in area.tests if not (ROOT / one).exists()]
    if missing:
        raise SystemExit(f"AREAS: not there: {', '.join(missing)}")
    files = [path for found in lists for path in found]
    pools = [list(faults(path)) for path in files]
    for pool in pools:
        rng.shuffle(pool)
    picked: list[Fault] = []
    while len(picked) < count and any(pools):
        # Longer files get more faults.
        pool = rng.choices(pools, [len(one) for one in pools])[0]
        fault = pool.pop()
        if compiles(fault):
            picked.append(fault)
    return picked


def noticed(fault: Fault, area: Area, copy: Path, timeout: float) -> str | None:
    """Return the test that fails with the fault; None if all pass."""
    target = copy / fault.file.relative_to(ROOT)
    original = target.read_text(encoding="utf-8")
    target.write_text(fault.source, encoding="utf-8")
    try:
        ran = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-x",
                "-q",
                "-p",
                "no:cacheprovider",
                "--no-header",
                *area.tests,
            ],
            cwd=copy,
            env=os.environ
            | {
                "PYTHONPATH": str(copy),
                "OMP_NUM_THREADS": "1",
                "PYTHONDONTWRITEBYTECODE": "1",
                "HYPOTHESIS_STORAGE_DIRECTORY": str(copy / ".hypothesis"),
            },
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "a test that does not end"
    finally:
        target.write_text(original, encoding="utf-8")
    if ran.returncode == 0:
        return None
    lines = [line for line in ran.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return lines[0].split(" - ")[0] if lines else f"pytest ended with {ran.returncode}"


def main() -> None:
    """Plant, run, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("areas", nargs="*", choices=[*AREAS, []], help="default: all")
    parser.add_argument("--count", type=int, help="faults of each area")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--goal", type=float, default=0.95)
    parser.add_argument(
        "--timeout", type=float, default=300.0, help="seconds for the tests of one fault"
    )
    options = parser.parse_args()
    seen = total = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(
            ROOT,
            copy,
            ignore=shutil.ignore_patterns(
                ".git", ".venv", "build", "demo", "__pycache__", ".hypothesis", "*.egg-info"
            ),
        )
        for name in options.areas or AREAS:
            area, survivors, started = AREAS[name], [], time.monotonic()
            picked = chosen(area, options.count or area.count, options.seed)
            for fault in picked:
                test = noticed(fault, area, copy, options.timeout)
                file = fault.file.relative_to(ROOT)
                place = f"{file}:{fault.line}: {fault.before!r} -> {fault.after!r}"
                print(
                    f"{'seen' if test else 'MISSED'} {place}{f' ({test})' if test else ''}",
                    flush=True,
                )
                if test is None:
                    survivors.append(place)
            seen, total = seen + len(picked) - len(survivors), total + len(picked)
            print(
                f"== {name}: {len(picked) - len(survivors)} of {len(picked)} noticed,",
                f"{time.monotonic() - started:.0f} s",
                flush=True,
            )
    share = seen / max(1, total)
    print(
        f"{seen} of {total} planted faults noticed:",
        f"{100 * share:.0f}% (goal {100 * options.goal:.0f}%)",
    )
    raise SystemExit(share < options.goal)


if __name__ == "__main__":
    main()
