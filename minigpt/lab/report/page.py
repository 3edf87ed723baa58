"""One HTML file: no script, no network; tables behind every picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from minigpt import __version__
from minigpt.lab.compare.results import Spread
from minigpt.lab.compare.tables import UNITS, duration_of, interval_name
from minigpt.lab.report import figures
from minigpt.lab.report.content import Content, Curve, Shown
from minigpt.lab.rounding import as_typed, shown_difference, shown_interval, shown_probability
from minigpt.printable import printable
from minigpt.run.status import Status
from minigpt.system.files import write_text

_AXES = (("tokens", "tokens seen"), ("flops", "training FLOPs"), ("seconds", figures.SECONDS))


@dataclass(frozen=True)
class Rows:
    """A table of text; the first column heads its row."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """An SVG and the numbers behind it."""

    title: str
    svg: Markup
    table: Rows


def write_report(content: Content, file: Path) -> None:
    """Write the page, whole or not at all."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("minigpt.lab.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_without_controls,
    )
    page = environment.get_template("report.html.j2").render(
        content=content,
        version=__version__,
        unit=UNITS[content.settings["unit"]],
        delta=as_typed(content.settings["delta"]),
        headlines=[_headline(arm, content.settings["delta"]) for arm in content.arms],
        verdicts=_verdicts(content),
        forest=_picture("Differences to the base", figures.forest(content), _verdicts(content)),
        curves=[
            _picture(f"Against {label}", figures.curves(content, axis, label), _curve_table(content, axis, label))
            for axis, label in _AXES
            if axis != "seconds" or content.why_no_times is None
        ],
        why_no_times=content.why_no_times,
        position=_picture("Loss by position", figures.by_position(content), _position_table(content)),
        cost=_picture("Loss against cost", figures.against_cost(content, _costs(content)), _cost_table(content)),
        runs=_run_table(content),
        troubles=_troubles(content),
        provenance=_provenance_table(content),
        colours=[_css_colour(index) for index in range(len(content.arms))],
    )
    write_text(file, page)


def _troubles(content: Content) -> list[tuple[str, str]]:
    """What went wrong, and with what: a message that several seeds have stands once."""
    found = [(f"{arm['name']}, {arm['source']}", arm["message"]) for arm in content.lost]
    for arm in content.arms:
        seeds: dict[str, list[str]] = {}
        for run in arm.json["runs"]:
            if run["message"]:
                seeds.setdefault(run["message"], []).append(str(run["seed"]))
        found += [(f"{arm.name}, seed{'s' * (len(each) > 1)} {', '.join(each)}", message) for message, each in seeds.items()]
    return found


def _without_controls(value: Any) -> Any:
    """Control characters have no place in HTML; our own markup, pictures above all, stays as it is."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _picture(title: str, svg: str | None, table: Rows) -> Picture | None:
    # Made by us from numbers and names; matplotlib escapes the names.
    return None if svg is None else Picture(title, Markup(svg), table)


def _css_colour(index: int) -> str:
    return "currentColor" if index == 0 else figures.look(index)[0]


def _headline(arm: Shown, delta: float) -> str:
    """The number beside an arm's name: its difference with the interval that the verdict is read from, or its loss."""
    difference = arm.json["difference"]
    if difference is None or None in difference["interval"]:
        return "" if arm.json["mean"] is None else f"{arm.json['mean']:.4f}"
    return f"{shown_difference(difference['mean'], delta)} ({shown_interval(difference['interval'], delta)})"


def _intervals(difference: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Those that hold together, and that of the variant alone."""
    return difference["interval"], difference["plain_interval"]


def _verdicts(content: Content) -> Rows:
    rows, delta = [], content.settings["delta"]
    for arm in content.arms:
        difference = arm.json["difference"]
        cells = ["–"] * 5
        if difference is not None:
            cells = [
                shown_difference(difference["mean"], delta),
                *("–" if None in bounds else _on_a_line(shown_interval(bounds, delta)) for bounds in _intervals(difference)),
                "–" if None in difference["interval"] else shown_probability(difference["p"]),
                "–" if difference["effect"] is None else f"{difference['effect']:+.2f}",
            ]
        rows.append((arm.name, _loss(arm.json["mean"], arm.json["sd"]), *cells, arm.json["verdict"]))
    rows += [(arm["name"], *["–"] * 6, Status.CRASHED) for arm in content.lost]
    columns = ("arm", "loss ± sd", "difference", interval_name(content.family), "of it alone", "p", "effect size", "verdict")
    return Rows("Losses, paired differences and verdicts", columns, rows)


def _loss(mean: float | None, sd: float | None) -> str:
    return "–" if mean is None else _on_a_line(f"{mean:.4f}" + ("" if sd is None else f" ± {sd:.4f}"))


def _on_a_line(text: str) -> str:
    """Not to be broken."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _curve_table(content: Content, axis: str, label: str) -> Rows:
    rows = []
    for arm in content.arms:
        curve: Curve | None = arm.validation
        if curve is None or getattr(curve, axis) is None:
            continue
        for place, low, mean, high in zip(getattr(curve, axis), curve.low, curve.mean, curve.high, strict=True):
            rows.append(
                (arm.name, f"{place:,.4g}" if place < 1e6 else f"{place:.4g}", *(f"{x:.4f}" for x in (mean, low, high)))
            )
    return Rows(f"Validation loss against {label}", ("arm", label, "mean", "lowest", "highest"), rows)


def _position_table(content: Content) -> Rows:
    """At powers of two."""
    arms = [arm for arm in content.arms if arm.position]
    length = max((len(arm.position) for arm in arms), default=0)
    places = [2**power for power in range(length.bit_length()) if 2**power <= length]
    rows = []
    for place in places:
        values = [arm.position[place - 1] if place <= len(arm.position) else None for arm in arms]
        rows.append((f"{place:,}", *("–" if value is None else f"{value:.4f}" for value in values)))
    return Rows("Validation loss at some places", ("place", *(arm.name for arm in arms)), rows)


def _costs(content: Content) -> list[tuple[str, list[Spread | None]]]:
    """What is counted, and what is measured where that compares the variants."""
    arms = content.arms
    state = f"state of {arms[0].json['cost']['context']:,} tokens, bytes"
    return [
        ("parameters", [_counted(arm.json["cost"]["total"]) for arm in arms]),
        ("training FLOPs", [_counted(arm.json["training_flops"]) for arm in arms]),
        *([] if content.why_no_times else [(figures.SECONDS, [arm.seconds for arm in arms])]),
        (state, [_counted(arm.json["cost"]["state_bytes"]) for arm in arms]),
    ]


def _counted(number: float | None) -> Spread | None:
    """What has no spread; None where it is unknown, because the model has parts that are not executed."""
    return None if number is None else Spread.of([number])


def _cost_table(content: Content) -> Rows:
    rows = []
    for arm in content.arms:
        cost = arm.json["cost"]
        seconds, speed = arm.seconds, arm.tokens_per_second
        rows.append(
            (
                arm.name,
                *(_number(cost[key], ",") for key in ("total", "active", "train_flops")),
                _number(arm.json["training_flops"], ".3e"),
                _number(arm.json["tokens"], ","),
                *(_number(cost[key], ",") for key in ("activation_bytes", "state_bytes_token", "state_bytes")),
                "–" if seconds is None else seconds.shown(duration_of(seconds.median)),
                "–" if speed is None else speed.shown("{:,.0f}".format),
            )
        )
    columns = (
        "arm",
        "parameters",
        "of which active",
        "FLOP a token",
        "FLOPs of training",
        "tokens",
        "kept for backward, bytes a token",
        "state, bytes a token",
        f"state at {content.arms[0].json['cost']['context']:,}, bytes",
        "training",
        "tokens/s",
    )
    return Rows("What each arm costs", columns, rows)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _run_table(content: Content) -> Rows:
    rows = [
        (
            f"{arm.name}, seed {run['seed']}",
            run["outcome"],
            *("–" if run[key] is None else f"{run[key]:.4f}" for key in ("loss", "best")),
            *(
                "–" if run[key] is None else f"{run[key]:,.{digits}f}"
                for key, digits in (("seconds", 1), ("tokens_per_second", 0))
            ),
            "–" if run["others"] is None else f"{run['others']:.0%}",
            run["precision"] or "–",
            run["run"],
        )
        for arm in content.arms
        for run in arm.json["runs"]
    ]
    columns = ("run", "outcome", "last loss", "best loss", "seconds", "tokens/s", "others' share", "precision", "folder")
    return Rows("Every run", columns, rows)


def _provenance_table(content: Content) -> Rows:
    rows = []
    for arm in content.arms:
        known: dict[str, Any] = arm.provenance
        if not known:
            continue
        versions, machine = known["versions"], known["machine"]
        git = known.get("git") or {}
        commit = git.get("commit", "")[:12] + (" with changes" if git.get("uncommitted") else "")
        rows.append(
            (
                arm.name,
                known["started"],
                f"minigpt {versions['minigpt']}, torch {versions['torch']}, Python {versions['python']}",
                f"{machine['processor']}, {machine['threads']} threads, {machine['device']}",
                known["core"][:12],
                known["data"]["fingerprint"][:12],
                commit or "–",
            )
        )
    columns = ("arm", "first run began", "versions", "machine", "code", "data", "git")
    return Rows("Where the numbers come from", columns, rows)
