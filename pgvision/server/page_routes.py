"""Routes of the page at /: static files and example images."""

from pathlib import Path
from typing import Final

from fastapi import APIRouter
from fastapi.responses import FileResponse

from pgvision import samples
from pgvision.server.refusals import Refusal

_FOLDER: Final = Path(__file__).parent / "page"
_EXAMPLES: Final = {"1": "site-01", "2": "cyclist", "3": "site-03"}
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
    def example(number: str) -> FileResponse:
        if number not in _EXAMPLES:
            raise Refusal(404, "no_route", f"there are examples 1 to {len(_EXAMPLES)}")
        return FileResponse(samples.path(_EXAMPLES[number]), media_type="image/jpeg")

    return router
