"""Command-line options, generated from typed settings and their docstrings; help in two tiers.

A command is a function whose parameters are arguments and settings. Each settings class (a
dataclass or a TypedDict) becomes one option per field: type and range from the annotation, help
from the ``Attributes:`` section of its docstring.
"""

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import typer
from typer.core import TyperCommand

# Fields that only Python can give. ReadOptions has the ``conf`` of single calls.
_OMITTED: Final = frozenset({"generator", "color"})
_OMITTED_OF: Final = {"ReadOptions": frozenset({"conf"})}
# Where the option's name is not the field's.
_FLAGS: Final = {
    "out": ("--out", "-o"),
    "recursive": ("--recursive", "-r"),
    "language": ("--language", "-l"),
    "model": ("--model", "--engine"),
    "engine": ("--backend",),
    "free_text": ("--free",),
    "num_alternatives": ("--best",),
    "json_lines": ("--json",),
    "as_json": ("--json",),
    "source_format": ("--from",),
    "target_format": ("--to",),
    "constrained": ("--constrained/--no-constrained",),
}
_METAVARS: Final = {"out": "DIR", "images": "DIR", "data": "DATASET", "valid": "DATASET"}
_WIDTH: Final = 96
_TYPES: Final = {
    "<int range>": "N", "<int>": "N", "<float range>": "X", "<float>": "X", "<list[str]>": "TEXT",
    "<list[path]>": "FILE", "<list[Path]>": "FILE", "<str>": "TEXT", "<path>": "FILE",
}  # fmt: skip
_ENTRY: Final = re.compile(r"^ {8}([\w, ]+): (.*(?:\n {10,}.*)*)", re.MULTILINE)
_EXAMPLES: Final = re.compile(r"^(?:\[bold\])?Examples(?:\[/bold\])?:?$", re.MULTILINE)


def build_command(
    function: Callable[..., None], *, name: str, first: Sequence[str] = ()
) -> TyperCommand:
    """Make a command of a function.

    Args:
        function: Its parameters are typer arguments and options, and settings classes. A dataclass
            is handed over as an instance, a TypedDict with the options that were given.
        name: Name of the command.
        first: Names of the options that ``--help`` lists; the others are in ``--help-all``. Empty:
            all of them.

    Example:
        >>> def greet(*, name: str) -> None: ...
        >>> [param.name for param in build_command(greet, name="greet").params]
        ['name', 'help_all']
    """
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name, cls=_Command, context_settings={"help_option_names": ["-h", "--help"]})(
        _flattened(function)
    )
    command: Any = typer.main.get_command(app)
    command.first = tuple(first)
    return command  # type: ignore[no-any-return]


def field_help(settings: type) -> dict[str, str]:
    """Return the description of each field from the docstrings of a settings class.

    Example:
        >>> class Speed:
        ...     '''How fast.
        ...
        ...     Attributes:
        ...         fps: Frames per second; None: as the source.
        ...     '''
        >>> field_help(Speed)
        {'fps': 'Frames per second; default: as the source.'}
    """
    texts: dict[str, str] = {}
    # A TypedDict does not list its bases: they are those of its module with some of its fields.
    bases = [
        other
        for other in vars(sys.modules[settings.__module__]).values()
        if is_typeddict(settings)
        and is_typeddict(other)
        and other.__annotations__.keys() < settings.__annotations__.keys()
    ]
    for base in (*bases, *reversed(settings.__mro__)):
        for match in _ENTRY.finditer(base.__doc__ or ""):
            text = " ".join(match[2].split()).replace("`", "")
            text = re.sub(r"(?<![\w'\"])None: ", "default: ", text)
            texts.update({name.strip(): text for name in match[1].split(",")})
    return texts


def split_phrases(text: str) -> list[str]:
    """Split what the user typed at semicolons: ``"helmet; head"`` asks for two classes.

    Example:
        >>> split_phrases("helmet; head")
        ['helmet', 'head']
    """
    return [phrase.strip() for phrase in text.split(";")]


# --- settings to options -----------------------------------------------------------------------


def _flattened(function: Callable[..., None]) -> Callable[..., None]:
    """Return a function with one keyword per option, for typer."""
    # 1. Expand each settings parameter into one option per field.
    hints = get_type_hints(function, include_extras=True)
    own = inspect.signature(function).parameters
    parameters: dict[str, inspect.Parameter] = {}
    names: dict[str, list[str]] = {}  # of the options of each settings parameter
    for parameter in own.values():
        hint = hints[parameter.name]
        if is_dataclass(hint) or is_typeddict(hint):
            # An option that an earlier settings class has is not there twice.
            options = {k: v for k, v in _options(hint).items() if k not in parameters}
            names[parameter.name] = list(options)
            parameters |= options
        else:
            kept = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hint)
            parameters[parameter.name] = kept

    # 2. At the call, collect the options into settings again.
    def _call(**values: Any) -> None:
        values.pop("help_all", None)
        arguments = {}
        for parameter in own:
            if parameter not in names:
                arguments[parameter] = values[parameter]
                continue
            given = {name: values[name] for name in names[parameter]}
            if is_typeddict(hints[parameter]):
                arguments[parameter] = {k: v for k, v in given.items() if v is not None}
            else:
                arguments[parameter] = hints[parameter](**given)
        function(**arguments)

    # 3. Describe the command to Typer, which wants parameters without a default first.
    flat = sorted(parameters.values(), key=lambda p: p.default is not inspect.Parameter.empty)
    flat.append(_parameter("help_all", _HelpAll, default=False))
    _call.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    _call.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    _call.__doc__ = function.__doc__
    return _call


def _options(settings: type) -> dict[str, inspect.Parameter]:
    omitted = _OMITTED | _OMITTED_OF.get(settings.__name__, frozenset())
    texts = field_help(settings)
    defaults: Mapping[str, Any] = {}
    if is_dataclass(settings):
        defaults = {
            field.name: inspect.Parameter.empty if field.default is MISSING else field.default
            for field in fields(settings)
        }
    return {
        name: _parameter(name, _typed(name, hint, texts.get(name, "")), defaults.get(name))
        for name, hint in get_type_hints(settings, include_extras=True).items()
        if name not in omitted and not (is_dataclass(settings) and name not in defaults)
    }


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _typed(name: str, hint: Any, text: str) -> Any:
    """Return the annotation of one option for typer."""
    if get_origin(hint) is Annotated and any(
        type(extra).__module__.startswith("typer") for extra in get_args(hint)
    ):
        return hint  # declared by hand
    # 1. Read the annotation: alternatives, range, literals.
    parts = [part for part in _alternatives(hint) if part is not NoneType]
    flags = _FLAGS.get(name, ("--" + name.replace("_", "-"),))
    about: dict[str, Any] = {"help": text, "show_default": False, "metavar": _METAVARS.get(name)}
    base, limits = _without_range(parts[0])
    words = [word for part in parts if get_origin(part) is Literal for word in get_args(part)]
    # 2. Switches.
    if parts == [bool]:
        both = "/" in flags[0]
        if NoneType in _alternatives(hint) and not both:  # unknown, yes or no
            flags = (f"{flags[0]}/--no-{flags[0].removeprefix('--')}",)
        return Annotated[bool | None, typer.Option(*flags, help=text, show_default=False)]
    # 3. Numbers, or one of a few words.
    if base in (int, float):
        about["metavar"] = "|".join(["N" if base is int else "X", *words])
        if words:
            about["parser"] = _number_or(base, words)
            return Annotated[Any, typer.Option(*flags, **about)]
        about.update(limits)
        return Annotated[base | None, typer.Option(*flags, **about)]
    # 4. Literals, lists, paths and text.
    if words:
        return Annotated[Literal[tuple(words)] | None, typer.Option(*flags, **about)]
    about["metavar"] = about["metavar"] or name.rpartition("_")[2].upper()
    if get_origin(base) in (list, tuple, Sequence):
        return Annotated[list[str] | None, typer.Option(*flags, **about)]
    if Path in parts and name not in (*_METAVARS, "model"):
        about["metavar"] = "FILE"
    return Annotated[(Path if parts == [Path] else str) | None, typer.Option(*flags, **about)]


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) in (Union, UnionType):
        return tuple(part for each in get_args(hint) for part in _alternatives(each))
    return (hint,)


def _without_range(hint: Any) -> tuple[Any, dict[str, Any]]:
    """Split ``Annotated[int, Range(1)]`` into the type and typer's keywords."""
    if get_origin(hint) is not Annotated:
        return hint, {}
    base, allowed = get_args(hint)[:2]
    high = {} if allowed.high == float("inf") else {"max": allowed.high}
    return base, {"min": allowed.low, **high}


def _number_or(base: type, words: Sequence[str]) -> Callable[[Any], Any]:
    def parse(text: Any) -> Any:
        if text in words or isinstance(text, base):
            return text
        try:
            return base(text)
        except ValueError as error:
            expected = f"a number or {', '.join(words)}"
            raise typer.BadParameter(f"expected {expected}, got {text!r}") from error

    parse.__name__ = "|".join(["NUMBER", *words])
    return parse


# --- help --------------------------------------------------------------------------------------


def _print_all(context: typer.Context, wanted: bool) -> None:
    if wanted:
        context.ensure_object(dict)
        context.obj["help_all"] = True
        typer.echo(context.command.get_help(context))
        raise typer.Exit


_HelpAll = Annotated[
    bool,
    typer.Option(
        "--help-all", is_eager=True, callback=_print_all, help="List all options.", hidden=True
    ),
]


class _Command(TyperCommand):
    """A command with plain help: summary, examples, arguments, options in the order of use."""

    first: tuple[str, ...] = ()

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help: the options in ``first``, or all of them for ``--help-all``."""
        everything = bool((ctx.obj or {}).get("help_all")) if isinstance(ctx.obj, dict) else False
        formatter.width = min(_WIDTH, max(formatter.width, 80))
        # 1. Collect arguments and options.
        about, examples = _split(self.help or "")
        params: list[Any] = self.get_params(ctx)
        arguments = [p for p in params if p.param_type_name == "argument"]
        options = {
            p.name: p
            for p in params
            if p.param_type_name == "option" and not p.hidden and p.name != "help"
        }
        # 2. Order: the most used options first, then the others in the order of their settings.
        order = [name for name in self.first if name in options]
        rest = [name for name in options if name not in order]
        shown = order + rest if everything or not order else order
        # 3. Write usage, description, examples and tables.
        names = [_row(param, ctx, whole=False)[0] for param in arguments]
        formatter.write_usage(ctx.command_path, " ".join([*names, "[OPTIONS]"]))
        formatter.write_paragraph()
        formatter.write_text(about)
        if examples:
            with formatter.section("Examples"):
                for line in examples:
                    formatter.write(f"  {line}\n")
        for title, listed in (("Arguments", arguments), ("Options", [options[n] for n in shown])):
            if rows := [_row(param, ctx, whole=everything) for param in listed]:
                with formatter.section(title):
                    formatter.write_dl(rows, col_max=28)
        if len(shown) < len(options):
            formatter.write(f"\n{ctx.command_path} --help-all lists all {len(options)} options.\n")


def _split(text: str) -> tuple[str, list[str]]:
    """Split a docstring into its text and its examples."""
    about, *more = _EXAMPLES.split(inspect.cleandoc(text).split("\n\nArgs:")[0], maxsplit=1)
    lines = more[0].splitlines() if more else []
    return about.strip(), [line.strip() for line in lines if line.strip()]


def _row(param: Any, ctx: Any, *, whole: bool) -> tuple[str, str]:
    name, text = param.get_help_record(ctx) or (param.name, "")
    if param.param_type_name == "argument":
        return f"{name.split(' <')[0].rstrip('.')}{'...' if param.nargs == -1 else ''}", param.help
    for typed, plain in _TYPES.items():
        name = name.replace(typed, plain)
    if not whole:  # the first sentence, without ranges
        text = re.split(r"(?<=[^.])[.;](?: |$)", param.help or "", maxsplit=1)[0]
    return name, text.replace("\\[", "[")


# --- declared by hand, for commands without typed settings --------------------------------------

_Function = TypeVar("_Function", bound=Callable[..., None])
INPUT_PANEL: Final = "Input"
OUTPUT_PANEL: Final = "Output"
ImagesFolder = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the images.")]
Split = Annotated[str | None, typer.Option(help="Only this part.")]
Conf = Annotated[
    float | None, typer.Option(min=0.0, max=1.0, help="Keep objects of at least this score.")
]
Drafts = Literal["off", "exact", "steady"]
DraftsOption = Annotated[
    Drafts, typer.Option(help="Over video, use the last answer as a speculative draft.")
]

BatchSize = Annotated[int | None, typer.Option(min=1, help="Prompts that run together.")]
ClassesPerPrompt = Annotated[int | None, typer.Option(min=1, help="Classes in one prompt.")]
ExtraObjects = Annotated[
    int, typer.Option(min=0, help="Objects past the model's own stop, for recall.")
]


def takes(_settings: type) -> Callable[[_Function], _Function]:
    """Mark the command's parameter ``options`` as settings; `build_command` expands it."""
    return lambda function: function
