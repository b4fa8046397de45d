"""Megabytes on disk that pgvision and each of its extras bring, with all that they need.

Run ``python tests/benchmarks/install_size.py`` in an environment that holds them: sizes come from
what is installed there, so torch counts as the build that you have. Python itself does not count.
"""

import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(name: str, extras: frozenset[str]) -> dict[str, Distribution | None]:
    """Find a package and all that it needs; None stands for what is not installed."""
    found: dict[str, Distribution | None] = {}
    seen, waiting = set(), [(canonicalize_name(name), extras)]
    while waiting:
        wanted = waiting.pop()
        if wanted in seen:
            continue
        seen.add(wanted)
        try:
            found[wanted[0]] = distribution(wanted[0])
        except PackageNotFoundError:
            found[wanted[0]] = None
            continue
        waiting += needs(found[wanted[0]], wanted[1])
    return found


def needs(package: Distribution, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield what a package with these extras asks for on this machine."""
    for line in package.requires or ():
        asked = Requirement(line)
        for extra in ("", *extras):
            if asked.marker is None or asked.marker.evaluate({"extra": extra}):
                yield canonicalize_name(asked.name), frozenset(asked.extras)


def megabytes(package: Distribution) -> float:
    """Size of the files that a package's RECORD lists, and of their compiled copies there."""
    places = {path.locate() for path in package.files or ()}
    return sum(place.stat().st_size for place in places if place.is_file()) / 1e6


def main() -> int:
    """Run from the command line."""
    core = closure("pgvision", frozenset())
    extras = distribution("pgvision").metadata.get_all("Provides-Extra") or []
    for extra in ("", *sorted(extras)):
        whole = closure("pgvision", frozenset({extra} if extra else ()))
        new = {name: one for name, one in whole.items() if not extra or name not in core}
        sizes = {name: megabytes(one) for name, one in new.items() if one is not None}
        largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:3]
        line = f"{extra or 'core':10} {sum(sizes.values()):7.0f} MB in {len(sizes):3} packages, "
        print(line + "most: " + ", ".join(f"{name} {sizes[name]:.0f}" for name in largest))
        if missing := sorted(name for name, one in new.items() if one is None):
            print(f"{'':10} not installed here, so not counted: {', '.join(missing)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
