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
        headlines=[_headline(variant, content.settings["delta"]) for variant in content.variants],
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
        colours=[_css_colour(index) for index in range(len(content.variants))],
    )
    write_text(file, page)


def _troubles(content: Content) -> list[tuple[str, str]]:
    """What went wrong, and with what: a message that several seeds have stands once."""
    found = [(f"{variant['name']}, {variant['source']}", variant["message"]) for variant in content.lost]
    for variant in content.variants:
        seeds: dict[str, list[str]] = {}
        for run in variant.json["runs"]:
            if run["message"]:
                seeds.setdefault(run["message"], []).append(str(run["seed"]))
        found += [
            (f"{variant.name}, seed{'s' * (len(each) > 1)} {', '.join(each)}", message) for message, each in seeds.items()
        ]
    return found


def _without_controls(value: Any) -> Any:
    """Control characters have no place in HTML; our own markup, pictures above all, stays as it is."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _picture(title: str, svg: str | None, table: Rows) -> Picture | None:
    # Made by us from numbers and names; matplotlib escapes the names.
    return None if svg is None else Picture(title, Markup(svg), table)


def _css_colour(index: int) -> str:
    return "currentColor" if index == 0 else figures.look(index)[0]


def _headline(variant: Shown, delta: float) -> str:
    """The number beside a variant's name: its difference with the interval that the verdict is read from, or its loss."""
    difference = variant.json["difference"]
    if difference is None or None in difference["interval"]:
        return "" if variant.json["mean"] is None else f"{variant.json['mean']:.4f}"
    return f"{shown_difference(difference['mean'], delta)} ({shown_interval(difference['interval'], delta)})"


def _intervals(difference: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Those that hold together, and that of the variant alone."""
    return difference["interval"], difference["plain_interval"]


def _verdicts(content: Content) -> Rows:
    rows, delta = [], content.settings["delta"]
    for variant in content.variants:
        difference = variant.json["difference"]
        cells = ["–"] * 5
        if difference is not None:
            cells = [
                shown_difference(difference["mean"], delta),
                *("–" if None in bounds else _on_a_line(shown_interval(bounds, delta)) for bounds in _intervals(difference)),
                "–" if None in difference["interval"] else shown_probability(difference["p"]),
                "–" if difference["effect"] is None else f"{difference['effect']:+.2f}",
            ]
        rows.append((variant.name, _loss(variant.json["mean"], variant.json["sd"]), *cells, variant.json["verdict"]))
    rows += [(variant["name"], *["–"] * 6, Status.CRASHED) for variant in content.lost]
    columns = (
        "variant",
        "loss ± sd",
        "difference",
        interval_name(content.family),
        "of it alone",
        "p",
        "effect size",
        "verdict",
    )
    return Rows("Losses, paired differences and verdicts", columns, rows)


def _loss(mean: float | None, sd: float | None) -> str:
    return "–" if mean is None else _on_a_line(f"{mean:.4f}" + ("" if sd is None else f" ± {sd:.4f}"))


def _on_a_line(text: str) -> str:
    """Not to be broken."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _curve_table(content: Content, axis: str, label: str) -> Rows:
    rows = []
    for variant in content.variants:
        curve: Curve | None = variant.validation
        if curve is None or getattr(curve, axis) is None:
            continue
        for place, low, mean, high in zip(getattr(curve, axis), curve.low, curve.mean, curve.high, strict=True):
            rows.append(
                (variant.name, f"{place:,.4g}" if place < 1e6 else f"{place:.4g}", *(f"{x:.4f}" for x in (mean, low, high)))
            )
    return Rows(f"Validation loss against {label}", ("variant", label, "mean", "lowest", "highest"), rows)


def _position_table(content: Content) -> Rows:
    """At powers of two."""
    variants = [variant for variant in content.variants if variant.position]
    length = max((len(variant.position) for variant in variants), default=0)
    places = [2**power for power in range(length.bit_length()) if 2**power <= length]
    rows = []
    for place in places:
        values = [variant.position[place - 1] if place <= len(variant.position) else None for variant in variants]
        rows.append((f"{place:,}", *("–" if value is None else f"{value:.4f}" for value in values)))
    return Rows("Validation loss at some places", ("place", *(variant.name for variant in variants)), rows)


def _costs(content: Content) -> list[tuple[str, list[Spread | None]]]:
    """What is counted, and what is measured where that compares the variants."""
    variants = content.variants
    state = f"state of {variants[0].json['cost']['context']:,} tokens, bytes"
    return [
        ("parameters", [_counted(variant.json["cost"]["total"]) for variant in variants]),
        ("training FLOPs", [_counted(variant.json["training_flops"]) for variant in variants]),
        *([] if content.why_no_times else [(figures.SECONDS, [variant.seconds for variant in variants])]),
        (state, [_counted(variant.json["cost"]["state_bytes"]) for variant in variants]),
    ]


def _counted(number: float | None) -> Spread | None:
    """What has no spread; None where it is unknown, because the model has parts that are not executed."""
    return None if number is None else Spread.of([number])


def _cost_table(content: Content) -> Rows:
    rows = []
    for variant in content.variants:
        cost = variant.json["cost"]
        seconds, speed = variant.seconds, variant.tokens_per_second
        rows.append(
            (
                variant.name,
                *(_number(cost[key], ",") for key in ("total", "active", "train_flops")),
                _number(variant.json["training_flops"], ".3e"),
                _number(variant.json["tokens"], ","),
                *(_number(cost[key], ",") for key in ("activation_bytes", "state_bytes_token", "state_bytes")),
                "–" if seconds is None else seconds.shown(duration_of(seconds.median)),
                "–" if speed is None else speed.shown("{:,.0f}".format),
            )
        )
    columns = (
        "variant",
        "parameters",
        "of which active",
        "FLOP a token",
        "FLOPs of training",
        "tokens",
        "kept for backward, bytes a token",
        "state, bytes a token",
        f"state at {content.variants[0].json['cost']['context']:,}, bytes",
        "training",
        "tokens/s",
    )
    return Rows("What each variant costs", columns, rows)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _run_table(content: Content) -> Rows:
    rows = [
        (
            f"{variant.name}, seed {run['seed']}",
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
        for variant in content.variants
        for run in variant.json["runs"]
    ]
    columns = ("run", "outcome", "last loss", "best loss", "seconds", "tokens/s", "others' share", "precision", "folder")
    return Rows("Every run", columns, rows)


def _provenance_table(content: Content) -> Rows:
    rows = []
    for variant in content.variants:
        known = variant.provenance
        if known is None:
            continue
        versions, machine = known.versions, known.machine
        commit = known.git.commit[:12] + (" with changes" if known.git.uncommitted else "") if known.git else "–"
        rows.append(
            (
                variant.name,
                known.started,
                f"minigpt {versions.minigpt}, torch {versions.torch}, Python {versions.python}",
                f"{machine.processor}, {machine.threads} threads, {machine.device}",
                known.core[:12],
                known.data.fingerprint[:12],
                commit,
            )
        )
    columns = ("variant", "first run began", "versions", "machine", "code", "data", "git")
    return Rows("Where the numbers come from", columns, rows)
