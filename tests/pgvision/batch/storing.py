"""The same pictures in every form that a job reads: lists, a tar file."""

import json
import tarfile

FORMS = ("folder", "txt", "jsonl", "tar")


def stored_as(form, folder, place):
    """Write down, or pack, a folder's pictures in their order; what to name as the source."""
    files = sorted(folder.iterdir(), key=lambda file: int(file.stem))
    names = [f"{folder.name}/{file.name}" for file in files]  # relative to the list, beside it
    path = place / f"pictures.{form}"
    if form == "folder":
        return str(folder)
    if form == "txt":
        path.write_text("\n".join(names))
    elif form == "jsonl":
        path.write_text("\n".join(json.dumps({"image": name}) for name in names))
    elif form == "tar":
        with tarfile.open(path, "w") as tar:
            for file in files:
                tar.add(file, f"./{file.name}")
                (place / "label.json").write_text("{}")
                tar.add(place / "label.json", f"./{file.stem}.json")
    return str(path)
