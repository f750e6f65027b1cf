"""A run as one HTML file that asks nothing of anywhere: a table and plots, in light and dark, on any width."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from .saved import Report
from .spread import duration, quartiles

COLOURS = ("#2563c9", "#c2410c", "#15803d", "#9333ea", "#64748b", "#0e7490", "#be185d", "#4d7c0f")
STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --quiet: #5b6470; --line: #d5dae1; --band: #f4f6f8 }
@media (prefers-color-scheme: dark) {
  :root { --back: #14181d; --text: #e4e8ee; --quiet: #9aa5b3; --line: #38414c; --band: #1d232a }
  .plot [stroke], .plot circle, .bar rect { filter: brightness(1.5) }
}
body { background: var(--back); color: var(--text); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 70rem; padding: 1rem }
h1 { font-size: 1.5rem; line-height: 1.2 } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
p, li { color: var(--quiet) }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left } thead th { background: var(--band) }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1.5rem }
figure { margin: 0 } figcaption { font-weight: 600; margin-bottom: .3rem }
.bar { display: grid; grid-template-columns: 9rem 1fr 5.5rem; gap: .5rem; align-items: center; font-size: .8rem }
.bar svg { width: 100%; height: 1.1rem } .bar b { font-weight: 400; text-align: right }
.plot { width: 100%; height: auto; font-size: 12px } .plot text { fill: var(--quiet) }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .8rem } .key i { display: inline-block; width: .8rem;
  height: .8rem; margin-right: .3rem; vertical-align: -.1rem }
@media (max-width: 30rem) { .bar { grid-template-columns: 1fr 5.5rem } .bar span { grid-column: 1 / -1 } }
"""
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 360, 240, 52, 34, 10  # of a plot, and of what its axes take, in its own units
Row = dict[str, Any]


def page(report: Report, heads: Sequence[str], cells: Sequence[Sequence[str]], notes: Iterable[str]) -> str:
    """The file's text. `cells` are the table's, a line for each row; `notes` stand under it."""
    rows = [row for row in report["rows"] if row["seconds"]]
    colours = {label(row): COLOURS[i % len(COLOURS)] for i, row in enumerate(rows)}
    whats = list(dict.fromkeys(what for row in rows for what in row["seconds"]))
    title = escape(f"minitx bench {report['model'].get('name', '')}")
    lines = "".join(f"<li>{escape(note)}</li>\n" for note in notes)
    about = (
        f"{report['machine']}; {report['threads']} threads, which together read {report['bandwidth'] / 1e9:.1f} GB/s"
    )
    bars = "".join(bar_chart(what, rows, colours) for what in whats)
    grown = "".join(growth(kind, rows, colours) for kind in ("step, batch", "encoder, tokens"))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<p>{escape(about)}.</p>
<div class="wide" tabindex="0" role="region" aria-label="All figures">
{table(heads, cells)}
</div>
<ul>
{lines}</ul>
<h2>As work grows</h2>
<div class="plots">
{grown}</div>
{key(colours)}
<h2>Each by itself</h2>
<div class="plots">
{bars}</div>
</body>
</html>
"""


def label(row: Row) -> str:
    return f"{row['name']}, {row['precision']}"


def table(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    lines = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in line) + "</tr>\n" for line in cells)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}</tbody>\n</table>"


def key(colours: dict[str, str]) -> str:
    items = "".join(f'<span><i style="background:{c}"></i>{escape(name)}</span>\n' for name, c in colours.items())
    return f'<div class="key">\n{items}</div>'


def bar_chart(what: str, rows: list[Row], colours: dict[str, str]) -> str:
    """A bar of the median for each row, and a line over the middle half of the rounds; from 0 to the longest."""
    found = [(label(row), quartiles(row["seconds"][what])) for row in rows if what in row["seconds"]]
    longest = max(high for _, (_, _, high) in found)
    lines = []
    for name, (low, median, high) in found:
        a, b, width = (100 * value / longest for value in (low, high, median))
        told = f"{name}: {duration(median)}"
        lines.append(
            f'<div class="bar"><span>{escape(name)}</span>'
            f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{escape(told)}">'
            f'<rect x="0" y="1" width="{width:.2f}" height="8" fill="{colours[name]}"/>'
            f'<rect x="{a:.2f}" y="4.5" width="{max(b - a, 0.3):.2f}" height="1" fill="#888"/></svg>'
            f"<b>{duration(median)}</b></div>\n"
        )
    return f"<figure><figcaption>{escape(what)}</figcaption>\n{''.join(lines)}</figure>\n"


def growth(kind: str, rows: list[Row], colours: dict[str, str]) -> str:
    """Time against the number in the names that begin with `kind`; both axes are logarithmic. Nothing for one point."""
    lines = {}
    for row in rows:
        named = {int(w.removeprefix(kind)): v for w, v in row["seconds"].items() if number_after(w, kind)}
        lines[label(row)] = [(n, quartiles(values)[1]) for n, values in sorted(named.items())]
    numbers = sorted({n for points in lines.values() for n, _ in points})
    times = [seconds for points in lines.values() for _, seconds in points]
    if len(numbers) < 2:
        return ""
    floor, ceiling = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)) + 1e-9)
    right, lowest = WIDTH - 10, HEIGHT - BOTTOM

    def x(n: float) -> float:
        share = math.log(n / numbers[0]) / math.log(numbers[-1] / numbers[0])
        return LEFT + 12 + share * (right - LEFT - 24)

    def y(seconds: float) -> float:
        return lowest - (math.log10(seconds) - floor) / max(1, ceiling - floor) * (lowest - TOP)

    parts = [f'<rect x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{lowest - TOP}" fill="none" stroke="#8886"/>']
    for power in range(floor, ceiling + 1):
        at = y(10.0**power)
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}" stroke="#8884"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{at + 4:.1f}" text-anchor="end">{duration(10.0**power)}</text>')
    for n in numbers:
        parts.append(f'<text x="{x(n):.1f}" y="{lowest + 15}" text-anchor="middle">{n}</text>')
    for name, points in lines.items():
        places = [(x(n), y(seconds)) for n, seconds in points]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colours[name]}" stroke-width="2"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colours[name]}"/>' for a, b in places]
    what, unit = kind.split(", ")
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{unit}</text>')
    told = escape(f"Time of the {what} against {unit}, logarithmic; the figures are in the table")
    drawn = "\n".join(parts)
    svg = f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{told}">\n{drawn}\n</svg>'
    return f"<figure><figcaption>{escape(what)}</figcaption>\n{svg}</figure>\n"


def number_after(text: str, kind: str) -> bool:
    rest = text.removeprefix(kind).strip()
    return text.startswith(kind) and rest.isascii() and rest.isdigit() and int(rest) > 0
