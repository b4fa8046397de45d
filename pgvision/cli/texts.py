"""`pgvision caption`, `ask` and `read`: what a picture shows, answers, and what is written."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pgvision.cli.exit_codes import end
from pgvision.cli.options import RunOptions, takes

if TYPE_CHECKING:
    from pgvision.cli.outputs import Outcome

Language = Annotated[
    str, typer.Option("--language", "-l", help="Language of the answer: en, de, fr, ...")
]


@takes(RunOptions)
def caption(
    *,
    language: Language = "en",
    style: Annotated[
        Literal["caption", "describe", "cap"],
        typer.Option(help="A sentence, more of them, or a short alt text; checkpoints differ."),
    ] = "caption",
    options: RunOptions,
) -> None:
    """Say what a picture shows.

    [bold]Examples[/bold]

    pgvision caption site.jpg
    pgvision caption photos/ --recursive --json > captions.jsonl
    pgvision caption site.jpg --language de --model google/paligemma2-3b-mix-448
    """
    from pgvision.cli.bulk import run_bulk
    from pgvision.cli.jobs import run_task

    if options.is_bulk:
        run_bulk("caption", {"language": language, "style": style}, options)

    def stream(sources: "str | int | list[str]") -> "Iterable[Outcome]":
        from pgvision import Captioner

        captioner = Captioner(language, style=style, **options.for_model)
        return captioner.stream(sources, **options.for_stream)

    end(run_task(stream, options))


@takes(RunOptions)
def ask(
    *,
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help="In words.", show_default=False)
    ],
    language: Language = "en",
    choice: Annotated[
        list[str] | None,
        typer.Option(help="An answer to choose from; may be given several times."),
    ] = None,
    best: Annotated[int, typer.Option(min=1, help="Give the n best answers.")] = 1,
    free: Annotated[
        bool, typer.Option("--free", help="Send the words as they are (mix checkpoints).")
    ] = False,
    options: RunOptions,
) -> None:
    """Answer a question about a picture.

    [bold]Examples[/bold]

    pgvision ask "how many workers wear a helmet?" site.jpg
    pgvision ask "what color is the helmet?" photos/*.jpg --json
    pgvision ask "is it on?" a.jpg --choice on --choice off --model google/paligemma-3b-ft-ai2d-448
    """
    from pgvision.cli.bulk import run_bulk
    from pgvision.cli.jobs import run_task
    from pgvision.runtime import find_checkpoint
    from pgvision.tokens import answer_prefix

    choices = choice or None
    kind = find_checkpoint(options.model, kind=options.kind).sure_kind
    if kind and not free:  # what cannot be asked is said before weights are read
        answer_prefix(question, language=language, choices=choices, kind=kind)
    if options.is_bulk:
        asked = {"question": question, "choices": choices, "language": language}
        run_bulk("ask", {**asked, "num_alternatives": best, "free_text": free}, options)

    def stream(sources: "str | int | list[str]") -> "Iterable[Outcome]":
        from pgvision import Answerer

        answerer = Answerer(language, free_text=free, num_alternatives=best, **options.for_model)
        return answerer.task(question, choices).stream(sources, **options.for_stream)

    end(run_task(stream, options))


@takes(RunOptions)
def read(*, options: RunOptions) -> None:
    """Read what is written in a picture.

    [bold]Examples[/bold]

    pgvision read sign.jpg
    pgvision read scans/ --recursive --out texts
    """
    from pgvision.cli.bulk import run_bulk
    from pgvision.cli.jobs import run_task

    if options.is_bulk:
        run_bulk("read", {}, options)

    def stream(sources: "str | int | list[str]") -> "Iterable[Outcome]":
        from pgvision import Reader

        return Reader(**options.for_model).stream(sources, **options.for_stream)

    end(run_task(stream, options))
