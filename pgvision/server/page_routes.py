"""The page at /: static files, and examples from the rendered world."""

from functools import lru_cache
from pathlib import Path
from typing import Final

import cv2
from fastapi import APIRouter, Response
from fastapi.responses import FileResponse

from pgvision.scenes import render_scene
from pgvision.server.refusals import Refusal

_FOLDER: Final = Path(__file__).parent / "page"
_EXAMPLES: Final = {"1": 30_000_006, "2": 30_000_005, "3": 30_000_012}  # seeds never trained on
_HEADERS: Final = {
    # Nothing from elsewhere: what a file name or a model's answer smuggles in cannot run.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; media-src blob:; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def page_routes() -> APIRouter:
    """Return the page, its style and script, and three pictures to try."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    def index() -> FileResponse:
        return FileResponse(_FOLDER / "index.html", headers=_HEADERS)

    @router.get("/page/page.{kind}")
    def static(kind: str) -> FileResponse:
        if kind not in ("css", "js"):
            raise Refusal(404, "no_route", f"/page/page.{kind}: there is no such file")
        return FileResponse(_FOLDER / f"page.{kind}", headers=_HEADERS)

    @router.get("/page/example-{number}.jpg")
    def example(number: str) -> Response:
        if number not in _EXAMPLES:
            raise Refusal(404, "no_route", f"there are examples 1 to {len(_EXAMPLES)}")
        return Response(_drawn(_EXAMPLES[number]), media_type="image/jpeg")

    return router


@lru_cache
def _drawn(seed: int) -> bytes:
    _, coded = cv2.imencode(".jpg", render_scene(seed).image, [cv2.IMWRITE_JPEG_QUALITY, 92])
    return bytes(coded)
