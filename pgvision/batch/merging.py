"""Journals of several parts of one job -> one file, as a single run would have written it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pgvision.batch.coco_files import write_coco_file, write_json_lines
from pgvision.batch.items import Shard
from pgvision.batch.journal import run_of
from pgvision.batch.ledger import Ledger
from pgvision.errors import OptionError


@dataclass(frozen=True)
class Merged:
    """Several journals that belong together.

    Attributes:
        ledger: What they hold.
        missing: What is not answered yet, in words; empty if the job is whole.
    """

    ledger: Ledger
    missing: tuple[str, ...] = ()

    def write_coco(self, path: str | Path, *, ids: str | Path | None = None) -> int:
        """Write one COCO file; see `pgvision.batch.Job.write_coco`."""
        return write_coco_file(Path(path), self.ledger.results, ids=ids)

    def write_json_lines(self, path: str | Path) -> int:
        """Write one JSONL file; see `pgvision.batch.Job.write_json_lines`."""
        return write_json_lines(Path(path), self.ledger.results())


def merge(journals: Iterable[str | Path], *, partial: bool = False) -> Merged:
    """Bring together the journals of all parts (``--shard 1/3`` to ``3/3``) of one job.

    Args:
        journals: Their files, in any order.
        partial: Take what is there of a job that is not whole.

    Raises:
        OptionError: If they are not of one job, a part is there twice, or, without ``partial``,
            something is missing.
        DataError: If one of them is no journal.
    """
    paths = [Path(path) for path in journals]
    runs = [run_of(path) for path in paths]
    if not runs:
        raise OptionError("journals: expected at least one file, got none")
    shards = [_shard(run) for run in runs]
    for path, run in zip(paths[1:], runs[1:], strict=True):
        names = sorted({*runs[0], *run} - {"shard"})
        if differing := [name for name in names if runs[0].get(name) != run.get(name)]:
            raise OptionError(
                f"{path}: is of another job than {paths[0]} (other {', '.join(differing)})"
            )
    _require_parts(paths, shards)
    ledger = Ledger(paths)
    _require_one_listing(ledger)
    missing = _missing(ledger, shards)
    if missing and not partial:
        raise OptionError(
            f"the job is not whole: {'; '.join(missing)}; run what is missing, or take what is "
            "there (--partial)"
        )
    return Merged(ledger, tuple(missing))


def _shard(run: dict[str, object]) -> Shard:
    return Shard.parse(str(run.get("shard") or "1/1"))


def _require_parts(paths: list[Path], shards: list[Shard]) -> None:
    for number, (path, shard) in enumerate(zip(paths, shards, strict=True)):
        if shard.count != shards[0].count:
            raise OptionError(f"{path}: is part {shard}, and {paths[0]} is part {shards[0]}")
        if shard in shards[:number]:
            raise OptionError(f"{path}: part {shard} is there twice ({paths[shards.index(shard)]})")


def _require_one_listing(ledger: Ledger) -> None:
    known = [one for one in ledger.listings if one.digest]
    for path, listing in zip(ledger.paths, ledger.listings, strict=True):
        if listing.digest and listing.digest != known[0].digest:
            raise OptionError(
                f"{path}: was made of {listing.count} pictures and videos, {ledger.paths[0]} of "
                f"{known[0].count} (or others): run all parts again on the same sources"
            )


def _missing(ledger: Ledger, shards: list[Shard]) -> list[str]:
    absent = sorted({*range(1, shards[0].count + 1)} - {shard.number for shard in shards})
    missing = [f"no journal of part {number}/{shards[0].count}" for number in absent]
    for number, path in enumerate(ledger.paths):
        if not ledger.listings[number].digest:
            missing.append(f"{path} was stopped before it began")
        elif left := ledger.missing(number):
            missing.append(f"{left} of {ledger.listings[number].mine} left in {path}")
    return missing
