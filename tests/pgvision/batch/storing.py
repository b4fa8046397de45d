"""The same pictures in every form that a job reads: lists, a tar file, a bucket."""

import json
import tarfile
from contextlib import contextmanager

FORMS = ("folder", "txt", "jsonl", "parquet", "tar", "file", "s3")


def stored_as(form, folder, place, bucket=None):
    """Write down, or pack, a folder's pictures in their order; what to name as the source."""
    files = sorted(folder.iterdir(), key=lambda file: int(file.stem))
    names = [f"{folder.name}/{file.name}" for file in files]  # relative to the list, beside it
    path = place / f"pictures.{form}"
    if form == "folder":
        return str(folder)
    if form == "file":
        return folder.as_uri()
    if form == "txt":
        path.write_text("\n".join(names))
    elif form == "jsonl":
        path.write_text("\n".join(json.dumps({"image": name}) for name in names))
    elif form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"width": range(len(names)), "image": names}), path)
    elif form == "tar":
        with tarfile.open(path, "w") as tar:
            for file in files:
                tar.add(file, f"./{file.name}")
                (place / "label.json").write_text("{}")
                tar.add(place / "label.json", f"./{file.stem}.json")
    elif form == "s3":
        from pyarrow.fs import FileSystem

        system, at = FileSystem.from_uri(bucket.replace("pictures", folder.name))
        for file in files:
            with system.open_output_stream(f"{at}/{file.name}") as stream:
                stream.write(file.read_bytes())
        return bucket.replace("pictures", folder.name)
    return str(path)


@contextmanager
def bucket_served():
    """A server of Amazon's protocol on this machine; yields the address of a folder in it."""
    from moto.server import ThreadedMotoServer
    from pyarrow.fs import S3FileSystem

    server = ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        words = {"endpoint_override": f"{host}:{port}", "scheme": "http", "region": "us-east-1"}
        S3FileSystem(
            access_key="me", secret_key="secret", allow_bucket_creation=True, **words
        ).create_dir("site")
        query = "&".join(f"{name}={value}" for name, value in words.items())
        yield f"s3://me:secret@site/pictures?{query}"
    finally:
        server.stop()
