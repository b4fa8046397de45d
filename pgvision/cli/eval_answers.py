"""Answers of an evaluation on disk, sealed with what made them, so that a stopped run goes on."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pgvision.datasets import ImageRecord, file_digest
from pgvision.errors import DataError, OptionError
from pgvision.files import write_text
from pgvision.results import DetectionResult, result_from_dict

_ANSWERS = "answers.jsonl"
_RUN = "run.json"


class Answers:
    """Answers on disk, one line an image, so that a stopped run goes on where it was.

    An answer counts for the picture with the bytes that it was given for: a picture that was
    replaced since is asked again.

    Args:
        folder: The run's folder.
        run: What makes the answers what they are, by name: weights, classes, settings.

    Raises:
        OptionError: If the folder holds answers of another run; the message says what differs.
    """

    def __init__(self, folder: Path, run: Mapping[str, object]) -> None:
        """Look at what is there."""
        self.path = folder / _ANSWERS
        self._found: dict[int, tuple[str, DetectionResult]] = {}
        self._same: dict[int, bool] = {}
        folder.mkdir(parents=True, exist_ok=True)
        seal = folder / _RUN
        if self.path.exists():
            _require_same_run(folder, seal, run)
            self._read()
        write_text(seal, json.dumps(dict(run), indent=1))

    def holds(self, image: ImageRecord) -> bool:
        """Whether this picture, as it is now, was answered before."""
        if image.id not in self._same:
            digest = None if image.id not in self._found else _digest_of(image)
            self._same[image.id] = digest is not None and digest == self._found[image.id][0]
        return self._same[image.id]

    def add(self, image: ImageRecord, result: DetectionResult) -> None:
        """Keep an answer."""
        digest = file_digest(image.path)
        line = {"image_id": image.id, "picture": digest, "result": result.to_dict()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=True, allow_nan=False) + "\n")
        self._found[image.id], self._same[image.id] = (digest, result), True

    def results(self, images: Iterable[ImageRecord]) -> Iterator[tuple[int, DetectionResult]]:
        """Give the answers to these images.

        Yields:
            Pairs of image id and result; an image without an answer is left out.
        """
        for image in images:
            if self.holds(image):
                yield image.id, self._found[image.id][1]

    def _read(self) -> None:
        """Read lines back; one that a stop cut in the middle is asked again."""
        kept = []
        for line in self.path.read_text(encoding="utf-8").split("\n"):
            try:
                data = json.loads(line)
            except ValueError:
                break
            result = result_from_dict(data["result"])
            if not isinstance(result, DetectionResult):
                raise DataError(f"{self.path}: expected boxes, got a {type(result).__name__}")
            self._found[int(data["image_id"])] = (str(data["picture"]), result)
            kept.append(line)
        write_text(self.path, "".join(line + "\n" for line in kept))


def _digest_of(image: ImageRecord) -> str | None:
    try:
        return file_digest(image.path)
    except DataError:
        return None


def _require_same_run(folder: Path, seal: Path, run: Mapping[str, object]) -> None:
    try:
        sealed = json.loads(seal.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(
            f"--out {folder}: holds {_ANSWERS} without a readable {_RUN}; name another folder"
        ) from error
    names = {*sealed, *run} if isinstance(sealed, dict) else {*run}
    differing = sorted(name for name in names if sealed.get(name) != run.get(name))
    if differing:
        raise OptionError(
            f"--out {folder}: holds the answers of another run (other {', '.join(differing)}); "
            f"name another folder, or delete {folder / _ANSWERS} to ask anew"
        )
