"""Format of a data set, by its files; other tools' formats are named with the way to COCO."""

import mmap
import re
from pathlib import Path
from typing import Final, Literal

from pgvision.coco.checks import reading
from pgvision.datasets.image_names import walk_files
from pgvision.datasets.yolo_config import find_config
from pgvision.errors import DataError

Format = Literal["coco", "yolo", "voc", "labelme", "jsonl"]
FORMATS: Final[tuple[Format, ...]] = ("coco", "yolo", "voc", "labelme", "jsonl")

_HEAD: Final = 1 << 16  # bytes of a file that are looked at
_BY_ENDING: Final[dict[str, Format]] = {
    ".jsonl": "jsonl", ".xml": "voc", ".yaml": "yolo", ".yml": "yolo", ".data": "yolo",
}  # fmt: skip
# What a file of another tool contains near its beginning, its name, and the way out.
_FOREIGN: Final = (
    (rb"<annotations>\s*<version>", "a CVAT for images XML", "CVAT exports 'COCO 1.0'"),
    (rb'"(rectanglelabels|polygonlabels|brushlabels|from_name|label_config)"|^\s*\[\s*\{[^{}]*'
     rb'"data"\s*:\s*\{', "a Label Studio JSON", "Label Studio exports 'COCO'"),
    (rb'"(_via_settings|_via_img_metadata|shape_attributes|region_attributes)"',
     "a VIA (VGG Image Annotator) JSON", "VIA exports 'COCO format'"),
    (rb'"coordinates"\s*:\s*\{\s*"x"', "a CreateML JSON",
     "the labelling tool (Roboflow, CVAT) exports COCO too"),
    (rb'"conversations"\s*:', "conversations (ShareGPT, LLaVA)",
     'write lines {"image", "prefix", "suffix"}'),
    (rb'"messages"\s*:\s*\[', "chat messages", 'write lines {"image", "prefix", "suffix"}'),
    (rb'"file_name"\s*:[^\n]*\}', "an ImageFolder metadata.jsonl (file_name, objects)",
     "write its objects as COCO, or lines {\"image\", \"prefix\", \"suffix\"}"),
    (rb'"(data_row|row_data|Labeled Data)"', "a Labelbox export", "its converter writes COCO"),
    (rb'"classTitle"', "a Supervisely JSON", "Supervisely exports COCO"),
)  # fmt: skip
_COCO: Final = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
_LABELME: Final = re.compile(rb'"(shapes|imagePath|imageData)"\s*:')
_OTHER_COCO: Final = {
    "caption": ("COCO captions", 'use the instances file, or lines {"image", "prefix", "suffix"}'),
    "segments_info": ("COCO panoptic annotations", "use the instances file"),
}
_CSV: Final = (
    "a CSV of boxes (TensorFlow, RetinaNet, OpenImages)",
    "the labelling tool (Roboflow, CVAT) exports COCO too",
)


def detect_format(path: str | Path) -> Format:
    """Return the format of a data set, by its files.

    Args:
        path: Annotation file or folder.

    Raises:
        DataError: If it is none of the five. Formats of other tools are named.

    Example:
        >>> detect_format("labels/train.jsonl")
        'jsonl'
    """
    # 1. A file: its ending or its content decides.
    given = Path(path)
    if not given.is_dir():
        if given.suffix.lower() == ".json":
            return _json_format(given)
        if given.suffix.lower() not in _BY_ENDING:
            refuse_foreign([given])
            raise DataError(_unknown(given))
        return _BY_ENDING[given.suffix.lower()]
    # 2. A folder: the most specific file decides: data.yaml, examples, XML, labels, JSON.
    if find_config(given) is not None:
        return "yolo"
    # Examples next to a COCO file are made from it, and contain less.
    if any(given.glob("*.jsonl")) and not any(map(has_objects, sorted(given.glob("*.json")))):
        return "jsonl"
    folders = (given / "Annotations", given / "annotations")
    if any(given.glob("*.xml")) or any(walk_files(folder, (".xml",)) for folder in folders):
        return "voc"
    if any((given / name).is_file() for name in ("classes.txt", "obj.names")):
        return "yolo"
    # All tools use the name ``labels/``.
    if (given / "labels").is_dir():
        files = walk_files(given / "labels", (".txt", ".xml", ".json"))
        kinds = {file.suffix.lower(): file for file in reversed(files)}
        if ".txt" in kinds or not kinds:
            return "yolo"
        return "voc" if ".xml" in kinds else _json_format(kinds[".json"])
    # The folder may also contain caption and panoptic files.
    first_error: DataError | None = None
    for file in [*sorted(given.glob("*.json")), *sorted(given.glob("annotations/*.json"))]:
        try:
            return _json_format(file)
        except DataError as error:
            first_error = first_error or error
    if first_error is not None:
        raise first_error
    return _format_by_parts(given)


def _format_by_parts(given: Path) -> Format:
    # COCO first: its folders may also contain files of other formats.
    if any(map(has_objects, sorted(given.glob("*/*.json")))):
        return "coco"
    # Folders of splits, the most specific format first.
    parts = [part for part in sorted(given.iterdir()) if part.is_dir()]
    kinds: dict[str, Format] = {"labels": "yolo", "*.xml": "voc", "*.jsonl": "jsonl"}
    for pattern, kind in kinds.items():
        if any(next(part.glob(pattern), None) for part in parts):
            return kind
    for file in sorted(given.glob("*/*.json")):
        if _json_format(file) == "labelme":
            return "labelme"
    refuse_foreign([*sorted(given.glob("*.csv")), *sorted(given.glob("*/*.csv"))])
    raise DataError(_unknown(given))


def _json_format(file: Path) -> Format:
    """Decide by the keys near the beginning: a COCO file may have hundreds of megabytes."""
    head = _head(file)
    if not _is_coco(head):
        if _LABELME.search(head) is not None:
            return "labelme"
        refuse_foreign([file])
    elif (kind := _other_coco(file)) is not None:
        raise DataError(_foreign(file, *_OTHER_COCO[kind]))
    return "coco"


def _head(file: Path) -> bytes:
    with reading(file), file.open("rb") as stream:
        return stream.read(_HEAD)


def has_objects(file: Path) -> bool:
    """Whether a JSON file is a COCO file of objects, not of captions or panoptic segments.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.json"
        >>> _ = file.write_text('{"images": [], "annotations": [{"caption": "two helmets"}]}')
        >>> has_objects(file)
        False
    """
    return _is_coco(_head(file)) and _other_coco(file) is None


def _is_coco(head: bytes) -> bool:
    is_object = head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")
    return is_object and _COCO.search(head) is not None


def _other_coco(file: Path) -> str | None:
    """Return the field of the first annotation that objects do not have, None if there is none."""
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        first = re.search(rb'"annotations"\s*:\s*\[\s*\{[^{}]*', data)
        found = first and re.search(rb'"(caption|segments_info)"\s*:', first[0])
        return found[1].decode() if found else None


def refuse_foreign(files: list[Path]) -> None:
    """Raise an error that names the tool that wrote an unsupported file.

    Raises:
        DataError: If the format of a file is known and cannot be read here.
    """
    for file in filter(Path.is_file, files):
        head = _head(file)
        known = (entry[1:] for entry in _FOREIGN if re.search(entry[0], head, re.DOTALL))
        found = _CSV if file.suffix.lower() == ".csv" else next(known, None)
        if found is not None:
            raise DataError(_foreign(file, *found))


def _foreign(file: Path, tool: str, fix: str) -> str:
    return f"{file}: is {tool}, which pgvision does not read. Fix: {fix}"


def _unknown(given: Path) -> str:
    return (
        f"{given}: the format is unknown; expected a COCO or LabelMe .json, a .jsonl, VOC .xml "
        "files, or a YOLO folder with data.yaml or labels/. Name it (format=..., --from)"
    )
