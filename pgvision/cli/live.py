"""`pgvision live`: tracks, zones, lines and events of a camera or video."""

from contextlib import ExitStack
from typing import TYPE_CHECKING

from pgvision.cli.exit_codes import end
from pgvision.cli.live_options import LiveOptions
from pgvision.cli.options import takes
from pgvision.cli.tasks import Phrase, known_phrases
from pgvision.errors import OptionError

if TYPE_CHECKING:
    from pgvision.cli.watching import Watch


@takes(LiveOptions)
def live(*, phrase: Phrase, options: LiveOptions) -> None:
    """Watch a camera: the newest frame each time, with tracks, zones, lines and events.

    Without --zone and --line the whole picture is one zone. Ends with Ctrl-C, with the source (a
    file), or after --seconds.

    [bold]Examples[/bold]

    pgvision live helmet --source 0 --show
    pgvision live helmet --source rtsp://10.0.0.7/live --zone gate.json --events events.jsonl
    pgvision live "helmet; head" --source site.mp4 --line door=100,200,500,200 --save out.mp4
    pgvision live head --source http://cam/live --zone site.json --post http://localhost:8000/alarm
    """
    from pgvision.cli.watching import Watch, watch
    from pgvision.tracking.tracks import require_trackers
    from pgvision.tracking.zones import Zones, read_lines, read_zones

    # 1. Check zones, lines and names before the model is loaded.
    require_trackers()
    zones = Zones(
        read_zones(options.zone or ()),
        read_lines(options.line or ()),
        anchor=options.anchor,
        grace=options.grace,
    )
    classes = known_phrases(
        phrase, {"model": options.model, "kind": options.kind, "unknown": options.unknown}
    )
    # 2. Open the outputs, and watch.
    with ExitStack() as stack:
        watched = Watch(zones, heartbeat=options.heartbeat)
        _open_outputs(watched, options, stack)
        code = watch(classes, options, watched)
    watched.report()
    end(code)


def _open_outputs(watched: "Watch", options: LiveOptions, stack: ExitStack) -> None:
    """Open all outputs, before the model is loaded."""
    if options.post_header and options.post is None:
        raise OptionError("--post-header: needs --post")
    from pgvision.cli.screens import Film, Window, appended, printed
    from pgvision.cli.webhook import Webhook

    # 1. Events: stdout, log, webhook.
    watched.tell.append(printed(as_json=options.json_lines))
    if options.events is not None:
        options.events.parent.mkdir(parents=True, exist_ok=True)
        log = stack.enter_context(options.events.open("a", encoding="utf-8"))
        watched.tell.append(appended(log))
    if options.post is not None:
        watched.webhook = stack.enter_context(Webhook(options.post, options.post_header or ()))
        watched.tell.append(watched.webhook.post)
    # 2. Frames: video file, window.
    if options.save is not None:
        watched.show.append(stack.enter_context(Film(options.save, watched.zones.draw)).show)
    if options.show:
        watched.show.append(stack.enter_context(Window(watched.zones.draw)).show)
