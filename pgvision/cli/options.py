"""Command-line options, generated from signatures, typed settings and their docstrings.

A command is a function. What stands before ``*`` in its signature are arguments; settings (a
dataclass or a TypedDict, or `Given` one) become one option per field, other parameters one option
each. Type and range come from the annotation, the help from the docstring.
"""

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import typer
from typer.core import TyperCommand

from pgvision.errors import OptionError

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
    "json_lines": ("--json",),
    "as_json": ("--json",),
    "source_format": ("--from",),
    "target_format": ("--to",),
    "constrained": ("--constrained/--no-constrained",),
    "choices": ("--choice",),
    "class_": ("--class",),
    "models": ("--model",),
    "allow_hosts": ("--allow-host",),
    "allow_origins": ("--allow-origin",),
}
_METAVARS: Final = {
    "out": "DIR", "images": "DIR", "data": "DATASET", "valid": "DATASET", "valid_images": "DIR",
    "config": "FILE.yaml", "source": "0|FILE|URL", "line": "NAME=X1,Y1,X2,Y2", "post": "URL",
    "post_header": "NAME: VALUE", "rename": "OLD=NEW",
    "push_to_hub": "REPOSITORY",
}  # fmt: skip
# Options of `serve` that containers and secrets stores set by variables.
_VARIABLES: Final = {
    name: f"PGVISION_{name.upper()}"
    for name in ("host", "port", "api_key", "no_key", "allow_hosts", "allow_origins")
}
# Help of arguments that several commands take.
_ARGUMENTS: Final = {
    "phrase": "What to find, one class or several: 'helmet' or 'helmet; head'.",
    "question": "In words.",
    "sources": "Images, folders, globs, videos, lists (.txt, .jsonl, .csv), .tar files, camera "
    "numbers, URLs.",
}
_WIDTH: Final = 96
_ENTRY: Final = re.compile(r"^ {4}([\w, ]+): (.*(?:\n {6,}.*)*)", re.MULTILINE)
_EXAMPLES: Final = re.compile(r"^Examples:$", re.MULTILINE)


@dataclass(frozen=True)
class Given:
    """Marks a parameter that gets a dict of those options of ``settings`` that were typed."""

    settings: type


def build_command(
    function: Callable[..., None], *, name: str, first: Sequence[str] = ()
) -> TyperCommand:
    """Make a command of a function.

    Args:
        function: A settings parameter gets an instance of its dataclass, or, of a TypedDict, a
            dict of the options that were given.
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


def field_help(settings: Any) -> dict[str, str]:
    """Return the description of each field or argument from a docstring.

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
    for base in (*bases, *reversed(getattr(settings, "__mro__", [settings]))):
        for match in _ENTRY.finditer(inspect.cleandoc(base.__doc__ or "")):
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


def parse_renames(pairs: Sequence[str] | None) -> dict[str, str]:
    """Parse the ``OLD=NEW`` pairs of ``--rename``.

    Raises:
        OptionError: If one is not of this form.

    Example:
        >>> parse_renames(["RBC=red blood cell"])
        {'RBC': 'red blood cell'}
    """
    for pair in pairs or ():
        if not all(map(str.strip, pair.partition("=")[::2])):
            raise OptionError(
                f"--rename: expected CLASS=NAME, such as RBC='red blood cell', got {pair!r}"
            )
    return dict(pair.split("=", 1) for pair in pairs or ())


# --- settings to options -----------------------------------------------------------------------


def _flattened(function: Callable[..., None]) -> Callable[..., None]:
    """Return a function with one keyword per option, for typer."""
    # 1. Expand each settings parameter into one option per field.
    hints = get_type_hints(function, include_extras=True)
    texts = _ARGUMENTS | field_help(function)
    parameters: dict[str, inspect.Parameter] = {}
    names: dict[str, list[str]] = {}  # of the options of each settings parameter
    for name, own in inspect.signature(function).parameters.items():
        if (given := _settings_of(hints[name])) is not None:
            # An option that an earlier settings class has is not there twice.
            options = _options(given, is_given=given.settings is not hints[name])
            names[name] = [key for key in options if key not in parameters]
            parameters |= {key: options[key] for key in names[name]}
        elif own.kind is inspect.Parameter.KEYWORD_ONLY:
            parameters[name] = _option(name, hints[name], texts.get(name, ""), own.default)
        else:
            ending = "S" if _is_list(_alternatives(hints[name])[0]) else ""
            about = typer.Argument(
                metavar=name.upper().removesuffix(ending), help=texts.get(name), show_default=False
            )
            parameters[name] = _parameter(name, Annotated[hints[name], about], own.default)

    # 2. At the call, collect the options into settings again; what was not given is left out.
    def _call(**values: Any) -> None:
        arguments = {}
        for name, hint in hints.items():
            if name in names:
                given = {key: values[key] for key in names[name] if values[key] not in (None, [])}
                make: Any = hint if is_dataclass(hint) else dict
                arguments[name] = make(**given)
            elif values.get(name) not in (None, []):
                arguments[name] = values[name]
        function(**arguments)

    # 3. Describe the command to Typer, which wants parameters without a default first.
    flat = sorted(parameters.values(), key=lambda p: p.default is not inspect.Parameter.empty)
    flat.append(_parameter("help_all", _HelpAll, False))
    _call.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    _call.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    _call.__doc__ = function.__doc__
    return _call


def _settings_of(hint: Any) -> Given | None:
    """Return the settings of a parameter; None if it is a single option."""
    if is_dataclass(hint) or is_typeddict(hint):
        return Given(hint)
    marks = get_args(hint) if get_origin(hint) is Annotated else ()
    return next((mark for mark in marks if isinstance(mark, Given)), None)


def _options(given: Given, *, is_given: bool) -> dict[str, inspect.Parameter]:
    """Return an option for each field of a settings parameter."""
    # 1. Types and texts of the fields; some can only be given in Python.
    settings = given.settings
    hints, texts = get_type_hints(settings, include_extras=True), field_help(settings)
    omitted = _OMITTED | _OMITTED_OF.get(settings.__name__, frozenset())
    # 2. Defaults: a TypedDict has none.
    defaults: Mapping[str, Any] = dict.fromkeys(hints)
    if is_dataclass(settings):
        defaults = {
            item.name: inspect.Parameter.empty if item.default is MISSING else item.default
            for item in fields(settings)
            if item.metadata.get("flag", True)
        }
    # 3. One option for each.
    return {
        name: _option(
            name,
            hints[name],
            texts.get(name, ""),
            defaults[name],
            is_given=is_given,
            has_engine="engine" in hints,
        )
        for name in hints
        if name in defaults and name not in omitted
    }


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _option(
    name: str,
    hint: Any,
    text: str,
    default: Any = None,
    *,
    is_given: bool = False,
    has_engine: bool = False,
) -> inspect.Parameter:
    """Return one option for typer; its default is None unless it is required."""
    # 1. Read the annotation: alternatives, range, literals.
    parts = [part for part in _alternatives(hint) if part is not NoneType]
    flags = _FLAGS.get(name, ("--" + name.replace("_", "-"),))
    flags = flags if name != "model" or has_engine else flags[:1]
    base, limits = _without_range(parts[0])
    words = [word for part in parts if get_origin(part) is Literal for word in get_args(part)]
    # 2. Describe it; a default that the text does not have is added.
    if isinstance(default, int | float | str) and default is not False and "default" not in text:
        text += f" [default: {default}]"
    metavar = _METAVARS.get(name, flags[0].rpartition("-")[2].upper())
    about: dict[str, Any] = {"help": text, "show_default": False, "metavar": metavar}
    about["envvar"] = _VARIABLES.get(name)
    # 3. Choose the type.
    kind: Any = Path if parts == [Path] else str
    if parts == [bool]:
        kind, about["metavar"] = bool, None
        if "/" not in flags[0] and (is_given or NoneType in _alternatives(hint)):
            flags = (f"{flags[0]}/--no-{flags[0].removeprefix('--')}",)
    elif base in (int, float):
        kind, about["metavar"] = base, "|".join(["N" if base is int else "X", *words])
        if words:
            kind, about["parser"] = Any, _number_or(base, words)
        else:
            about.update(limits)
    elif words:
        kind, about["metavar"] = Literal[tuple(words)], None
    elif _is_list(base):
        kind = list[get_args(base)[0]]  # type: ignore[misc]
    if Path in (*parts, *get_args(base)) and name not in (*_METAVARS, "model"):
        about["metavar"] = "FILE"
    typed = Annotated[kind | None, typer.Option(*flags, **about)]
    is_required = default is inspect.Parameter.empty and not is_given
    return _parameter(name, typed, inspect.Parameter.empty if is_required else None)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) in (Union, UnionType):
        return tuple(part for each in get_args(hint) for part in _alternatives(each))
    return (hint,)


def _is_list(hint: Any) -> bool:
    return get_origin(hint) in (list, tuple, Sequence, dict)


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
        everything = isinstance(ctx.obj, dict) and bool(ctx.obj.get("help_all"))
        formatter.width = min(_WIDTH, max(formatter.width, 80))
        # 1. Collect arguments and options; the most used options first.
        text = re.split(r"\n\n(?:Args|Raises):", inspect.cleandoc(self.help or ""))[0]
        about, *examples = _EXAMPLES.split(text, maxsplit=1)
        every: list[Any] = self.get_params(ctx)
        params = [p for p in every if not p.hidden and p.name != "help"]
        arguments = [p for p in params if p.param_type_name == "argument"]
        options = {p.name: p for p in params if p.param_type_name == "option"}
        order = [name for name in self.first if name in options]
        rest = [name for name in options if name not in order]
        shown = order + rest if everything or not order else order
        # 2. Write usage, description, examples and tables.
        names = [_row(param, ctx, whole=False)[0] for param in arguments]
        formatter.write_usage(ctx.command_path, " ".join([*names, "[OPTIONS]"]))
        formatter.write_paragraph()
        formatter.write_text(about.strip())
        for lines in examples:
            with formatter.section("Examples"):
                for line in filter(None, map(str.strip, lines.splitlines())):
                    formatter.write(f"  {line}\n")
        for title, listed in (("Arguments", arguments), ("Options", [options[n] for n in shown])):
            if rows := [_row(param, ctx, whole=everything) for param in listed]:
                with formatter.section(title):
                    formatter.write_dl(rows, col_max=28)
        if len(shown) < len(options):
            formatter.write(f"\n{ctx.command_path} --help-all lists all {len(options)} options.\n")


def _row(param: Any, ctx: Any, *, whole: bool) -> tuple[str, str]:
    name, text = param.get_help_record(ctx) or (param.name, "")
    if param.param_type_name == "argument":
        return f"{name.split(' <')[0].rstrip('.')}{'...' if param.nargs == -1 else ''}", param.help
    if not whole:  # the first sentence, without ranges
        text = re.split(r"(?<=[^.])[.;](?: |$)", param.help or "", maxsplit=1)[0]
    return name, text.replace("\\[", "[")
