"""The cost as work grows: time of a step against target length, source length, batch and threads, as one picture."""

from __future__ import annotations

from typing import Any

from minitx.measuring.turns import by_turns, steps

from .cases import Bench, say
from .shapes import SHAPES, sentences

PRECISION, STEPS, SHORT = "int8", 32, 12
# What grows: its values, and (sources, source length, steps) of each.
SERIES = {
    "target length": ((16, 32, 64, 128, 256, 512, 1024), lambda n: (1, 32, n)),
    "source length": ((16, 32, 64, 128, 256, 512, 1024, 2048), lambda n: (1, n, SHORT)),
    "batch": ((1, 2, 4, 8, 16, 24, 32, 48, 64), lambda n: (n, 32, STEPS)),
}
QUICK = 3  # values of each


def series(bench: Bench, shape: str) -> list[dict[str, Any]]:
    """One line of a plot each: what grows, the threads, the engine, and (value, seconds of a step) in order."""
    found = []
    engines = {name: PRECISION for name, peer in bench.engines.items() if PRECISION in peer.precisions}
    for threads in sorted({1, bench.threads}):
        with bench.workers(shape, engines, threads) as workers:
            for what, (values, work) in SERIES.items():
                points: dict[str, list[tuple[int, float]]] = {name: [] for name in workers}
                for value in values[:QUICK] if bench.quick else values:
                    say(f"plot: {what} {value}, {threads} threads ...")
                    count, source, target = work(value)
                    asked = (steps, sentences(SHAPES[shape], [source] * count), target - 1, 1)
                    samples = by_turns(workers, 1, lambda _, asked=asked: asked)
                    for name, [sample] in samples.items():
                        points[name].append((value, sample.seconds["step"]))
                for name, line in points.items():
                    found.append({"what": what, "threads": threads, "engine": name, "points": line})
    return found


def draw(lines: list[dict[str, Any]], path: str, title: str) -> None:
    """A PNG with a panel for each thing that grows; both axes are logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(SERIES), figsize=(5 * len(SERIES), 4.5), layout="constrained")
    for panel, what in zip(panels, SERIES, strict=True):
        for line in (line for line in lines if line["what"] == what):
            x, y = zip(*line["points"], strict=True)
            style = "-" if line["threads"] > 1 else "--"
            colour = "C0" if line["engine"] == "minitx" else f"C{1 + sum(map(ord, line['engine'])) % 8}"
            label = f"{line['engine']}, {line['threads']} thread{'s' * (line['threads'] > 1)}"
            panel.plot(x, [1e3 * s for s in y], style, marker="o", color=colour, label=label)
        panel.set(xscale="log", yscale="log", xlabel=what, ylabel="ms a step")
        panel.grid(True, which="both", alpha=0.3)
        panel.legend(fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
