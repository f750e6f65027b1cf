"""`minitx bench`: a row for everything that was asked for, and a file or a failure for each way to look at them."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).parent / "compiler"))

from test_export import compiler, small

from minitx.compiler.export import export
from minitx.compiler.targets.package import Options
from minitx.measuring import engines, packages, report, saved
from minitx.measuring.machine import bandwidth
from minitx.measuring.session import Candidate, Case, Row, Session, cases, facts, first, memory, sources
from minitx.measuring.traffic import step_bytes
from minitx.measuring.turns import Sample, Started, environment_of, steps
from minitx.weights.checkpoint import save
from minitx.weights.names import open_model

WORK = [Case("step, batch 1", "step", 8, 4), Case("step, batch 4", "step", 8, 4, 4)]


def minitx(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "minitx", "bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500)


def error(*arguments: object) -> str:
    done = minitx(*arguments)
    assert done.returncode == 1 and not done.stdout and done.stderr.startswith("minitx: error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save(small("post", "none"), path)
    return path


@pytest.fixture(scope="module")
def package(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "package"
    export(open_model(model, "int8"), "c", folder, Options("tiny"))
    return folder


@pytest.fixture(scope="module")
def prepared(package: Path, tmp_path_factory: pytest.TempPathFactory) -> packages.Package:
    """The package, built beside its folder."""
    compiler("clang")
    with environment_of({"CFLAGS": "-O0"}):
        return packages.prepare(package, tmp_path_factory.mktemp("built"), (), 96, 1)


@pytest.fixture(scope="module")
def ran(
    model: Path, package: Path, prepared: packages.Package, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, saved.Report, str]:
    """What one run printed, saved and drew: two precisions, a package with its command, and a folder that is not."""
    shutil.copy(prepared.command[0], package / "tiny")
    folder = tmp_path_factory.mktemp("run")
    options = ["--quick", "--rounds", 1, "--engine", "native", "--quantize", "int8", "--quantize", "none"]
    files = ["--out", folder / "a.json", "--html", folder / "a.html"]
    done = minitx(model, *options, "--export", package, "--export", folder / "none", *files)
    assert done.returncode == 0, done.stderr
    return done.stdout, saved.read(str(folder / "a.json")), (folder / "a.html").read_text()


def test_the_table_has_a_row_for_everything_that_was_asked_for(ran: tuple[str, saved.Report, str]) -> None:
    text, found, _ = ran
    heads, *lines = (line for line in text.splitlines() if re.match(r"engine|native|package", line))
    for head in ("step 1", "step 4", "step 16", "encode 32", "load", "first", "memory", "GB/s", "share"):
        assert f"  {head}  " in f"  {heads}  "
    assert "encode 128" not in heads, "the model takes 64 tokens"
    assert [line.split()[0] for line in lines] == ["native", "native", "package", "package"]
    assert "failed" in lines[3] and "is no folder" in text
    assert f"{found['bandwidth'] / 1e9:.1f} GB/s" in text


def test_what_is_saved_holds_times_bytes_and_agreement(ran: tuple[str, saved.Report, str]) -> None:
    _, found, _ = ran
    int8, f32, package, missing = found["rows"]
    assert [row["precision"] for row in found["rows"]] == ["int8", "f32", "int8", "?"]
    timed = {case.name for case in cases(64, True)} | {"load", "first token"}
    assert int8["seconds"].keys() == f32["seconds"].keys() == timed
    assert package["seconds"].keys() == timed - {"step, batch 4", "step, batch 16"}, "it takes one sentence at a time"
    assert all(len(values) == 1 for row in found["rows"] for values in row["seconds"].values())
    assert package["agreement"] == ["native", 0, 2] and not any(row["notes"] for row in found["rows"])
    assert int8["weights"] == package["weights"] < f32["weights"] and int8["step_bytes"] < f32["step_bytes"]
    assert 1e6 < package["memory"] < int8["memory"] - int8["base"] < 5e8 and package["base"] == 0
    assert found["complete"] and not missing["seconds"]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


def test_the_page_is_well_formed_and_asks_for_nothing(ran: tuple[str, saved.Report, str]) -> None:
    _, found, page = ran
    tree = ElementTree.fromstring(page.partition("\n")[2])
    assert page.startswith("<!DOCTYPE html>\n") and len(tree.findall(".//tbody/tr")) == len(found["rows"])
    tags = Tags()
    tags.feed(page)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in tags.found}
    assert not [a for _, attributes in tags.found for a in attributes if a in ("src", "href", "xlink:href")]
    assert "url(" not in page and "http" not in page and "@import" not in page
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page and "max-width: 30rem" in page
    pictures = [attributes for tag, attributes in tags.found if tag == "svg"]
    bars = sum(len(row["seconds"]) for row in found["rows"])
    assert len(pictures) == bars + 1 and all(p["role"] == "img" and p["aria-label"] for p in pictures)


def test_the_page_shows_names_as_they_are(ran: tuple[str, saved.Report, str]) -> None:
    from minitx.measuring.page import page

    found = copy.deepcopy(ran[1])
    found["rows"][0]["name"] = found["model"]["name"] = '<b>&"'
    tree = ElementTree.fromstring(page(found, ["engine"], [['<b>&"']], ["<i>"]).partition("\n")[2])
    assert tree.findtext(".//td") == '<b>&"' and tree.findtext(".//li") == "<i>"


def changed(found: saved.Report, factor: float, row: int = 0, what: str = "step, batch 1") -> saved.Report:
    other = copy.deepcopy(found)
    other["rows"][row]["seconds"][what] = [factor * s for s in other["rows"][row]["seconds"][what]]
    return other


def test_two_runs_are_compared(ran: tuple[str, saved.Report, str], tmp_path: Path) -> None:
    _, found, _ = ran
    before, after = tmp_path / "before.json", tmp_path / "after.json"

    def compared(other: saved.Report, *options: object) -> subprocess.CompletedProcess[str]:
        before.write_text(json.dumps(found))
        after.write_text(json.dumps(other))
        return minitx("--compare", before, after, *options)

    same = compared(found)
    assert same.returncode == 0 and "nothing is worse" in same.stdout and "differ" not in same.stdout
    slower = compared(changed(found, 1.2))
    assert slower.returncode == 1 and re.search(r"native, int8 .* step, batch 1 .* \+20.0% +slower", slower.stdout)
    assert compared(changed(found, 1.2), "--threshold", 25).returncode == 0
    told = json.loads(compared(changed(found, 0.5), "--json").stdout)
    assert not told["worse"] and {c["verdict"] for c in told["changes"]} == {"", "faster"}


def test_comparing_says_what_else_differs_and_goes_on(ran: tuple[str, saved.Report, str]) -> None:
    found = ran[1]
    other = copy.deepcopy(found) | {"machine": "another", "complete": False}
    other["model"]["name"] = "other"
    other["rows"][1].update(error="it broke", seconds={})
    del other["rows"][2]
    result = saved.compare(found, other, 0.1)
    notes = "\n".join(result.notes)
    assert "the models differ: name tiny.safetensors, then name other" in notes and "then another" in notes
    assert "int8 is in the first run alone" in notes and "the second run was stopped" in notes
    assert result.broken == ["native, f32: it broke"] and result.worse and result.changes


def test_what_differs_from_round_to_round_is_no_change() -> None:
    change = saved.Change("row", "load", (1.0, 0.9, 1.5), (1.3, 1.2, 1.4), 0.1)
    assert change.verdict == "" and replace(change, before=(1.0, 0.9, 1.1)).worse
    assert replace(change, after=(0.5, 0.4, 0.6)).verdict == "faster"


DAMAGED = [
    ("", "is no run"),
    ("[]", "is no run"),
    ("[" * 100_000, "is no run"),
    ('{"format": "minitx bench", "version": 99}', "is of version 99"),
    ('{"format": "minitx bench", "version": 1, "rows": []}', "is damaged"),
]


@pytest.mark.parametrize(("text", "told"), DAMAGED)
def test_a_file_that_is_no_saved_run_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(saved.FileError, match=told) as raised:
        saved.read(str(path))
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("values", [[], [0], [-1.0], ["1"], [True], [float("nan")], [float("inf")], None])
def test_seconds_that_are_none_are_refused(ran: tuple[str, saved.Report, str], tmp_path: Path, values: object) -> None:
    other = copy.deepcopy(ran[1])
    other["rows"][0]["seconds"]["load"] = values
    path = tmp_path / "a.json"
    path.write_text(json.dumps(other))
    with pytest.raises(saved.FileError, match="row 1 has seconds"):
        saved.read(str(path))


def test_wrong_use_is_one_line(model: Path, tmp_path: Path) -> None:
    assert "choose one of: CPU" in error(model, "--device", "TPU")
    assert "int3" in error(model, "--quantize", "int3")
    assert "not on CL" in error(model, "--engine", "native", "--device", "CL")
    assert "no MODEL" in error()
    assert "takes no MODEL" in error(model, "--compare", "a", "b")
    assert "cannot be read" in error("--compare", tmp_path / "a", tmp_path / "b")
    assert "is a folder" in error(model, "--out", tmp_path)
    assert minitx(model, "--rounds", 0).returncode == 2


def test_without_a_compiler_the_row_says_so(model: Path, tmp_path: Path) -> None:
    (tmp_path / "ziglang.py").write_text("raise ImportError")
    environment = os.environ | {"PATH": "", "MINITX_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
    environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parents[1])
    environment.pop("CC", None)
    command = [sys.executable, "-m", "minitx", "bench", model, "--quick", "--engine", "native", "--quantize", "int8"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "native, int8: failed: " in done.stdout and "C compiler" in done.stdout


# Peers in place of engines: a worker's process imports this file.


class Counts:
    """Gives tokens that count up from the source's first."""

    def __init__(self, what: str) -> None:
        self.what, self.calls = what, 0
        if what == "raises":
            raise ValueError("does not\nwork")

    def generate(self, sources: list[list[int]], steps: int, beam: int) -> list[list[int]]:
        self.calls += 1
        if self.what == "dies" and self.calls > 3:
            os._exit(7)
        if self.what == "hangs" and self.calls > 3:
            time.sleep(60)
        count = steps - (self.what == "short")
        found = [[source[0] + i for i in range(count)] for source in sources]
        if self.what == "differs":
            found[0][-1] += 1
        return found

    def memory(self) -> int:
        return 12_000_000

    def facts(self) -> dict[str, object]:
        return {"weights": 1000, "precision": "f32"}


def session(*names: str, **options: object) -> Session:
    candidates = [Candidate(Row("native" if n == "good" else n), Counts, n, {}, starts=1) for n in names]
    return Session(candidates, WORK, 50, 0, 1, 1, **options)  # type: ignore[arg-type]


def test_an_engine_that_fails_is_a_row_and_the_others_go_on() -> None:
    run = session("raises", "dies", "hangs", "short", "differs", "good", patience=4.0)
    run.run()
    errors = {row.name: row.error for row in run.rows if row.error}
    assert errors.pop("raises") == "ValueError: does not work"
    assert errors.pop("dies") == "its process ended (exit status 7)"
    assert errors.pop("hangs") == "no answer within 4 seconds"
    assert errors.pop("short") == "it made 4 steps where 5 were asked for" and not errors
    rows = {row.name: row for row in run.rows}
    for name in ("good", "differs"):
        found = rows["native" if name == "good" else name]
        assert found.seconds.keys() == {"load", "first token", *(case.name for case in WORK)}
        assert (found.memory, found.weights) == (12_000_000, 1000)
    assert rows["differs"].agreement == ("native", 2, 5) and rows["native"].agreement is None
    assert "2 of 5 sentences have other tokens than native gives" in "\n".join(
        report.notes({"complete": True, "rows": [saved.row_dict(row) for row in run.rows]})
    )


def test_a_round_that_was_disturbed_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a step is a difference, which can come out below zero where another program ran in between."""

    class Disturbed:
        started = Started(1.0, 0)

        def __init__(self, *arguments: object) -> None:
            self.turn = 0

        def measure(self, what: object, *rest: object) -> object:
            self.turn += what is steps
            tokens = [[1] * 5 for _ in rest[0]] if what is steps else []  # type: ignore[attr-defined]
            told = {memory: 1, facts: {}, first: Sample({"first token": 1.0})}
            return told.get(what, Sample({"step": -1.0 if self.turn == 2 else 2.0}, tokens))

        def close(self) -> None: ...

    monkeypatch.setattr("minitx.measuring.session.Worker", Disturbed)
    run = session("good")
    run.rounds = 2
    run.run()
    assert run.rows[0].seconds["step, batch 1"] == [2.0] and not run.rows[0].error
    assert run.rows[0].notes == ["step, batch 1: round 1 was disturbed by something else and does not count"]


def test_a_run_that_is_stopped_keeps_what_it_found_and_leaves_no_process() -> None:
    started: list[int] = []

    def notice(message: str) -> None:
        started.extend(worker.process.pid for worker in run.workers.values() if worker.process.pid)
        if message.startswith("step, batch 4"):
            raise KeyboardInterrupt

    run = session("good", notice=notice)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert run.rows[0].seconds.keys() == {"load", "first token", "step, batch 1"} and started
    for process in started:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


@pytest.mark.skipif(os.name == "nt", reason="signals are another matter there")
def test_ctrl_c_prints_what_was_measured_so_far(model: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from minitx import cli; from minitx.commands import common\n"
        "common.Status.__call__ = lambda self, message: print(message, file=sys.stderr, flush=True)\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    options = ["--rounds", "99", "--engine", "native", "--quantize", "int8", "--json"]
    command = [sys.executable, "-c", code, "bench", str(model), *options]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        assert process.stdout and process.stderr
        next(line for line in process.stderr if line.startswith("step, batch 1: round 2"))
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to its children, too
        out, err = process.stdout.read(), process.stderr.read()
    assert process.returncode == 130 and err.endswith("minitx: stopped\n") and "Traceback" not in err
    found = json.loads(out)
    assert not found["complete"] and "load" in found["rows"][0]["seconds"]
    assert not list(tmp_path.iterdir()) and not group(process.pid)


def group(leader: int) -> list[str]:
    """What is left of a group of processes."""
    found = subprocess.run(["ps", "-o", "pid=,stat=,args=", "-g", str(leader)], capture_output=True, text=True)
    return [line for line in found.stdout.splitlines() if line.split()[1][0] != "Z"]


def test_a_package_is_kept_from_ending_early(package: Path, prepared: packages.Package, model: Path) -> None:
    """Its command makes as many steps as the engine does, which knows no end at all."""
    peer = packages.PackagePeer(prepared)
    engine = engines.EnginePeer(engines.Asked(str(model), "native", "CPU", "int8", 1))
    for length in (5, 20, 40):
        asked = sources(96, 0, [length])
        assert peer.generate(asked, 30, 1) == engine.generate(asked, 30, 1)
    assert engine.facts()["digest"] == prepared.digest and peer.memory() > 1e5
    peer.close()
    assert packages.read_head(package / "tiny.weights")[packages.END] == 0, "the package itself is as it was"


def test_a_folder_that_cannot_be_run_is_told(tmp_path: Path) -> None:
    def told(folder: Path) -> str:
        with pytest.raises(packages.FileError) as raised:
            packages.prepare(folder, tmp_path, (), 96, 1)
        return str(raised.value)

    assert "is no folder" in told(tmp_path / "none")
    folder = tmp_path / "some"
    folder.mkdir()
    assert "holds 0 .weights files" in told(folder)
    (folder / "m.weights").write_bytes(b"x" * 500)
    assert "Makefile" in told(folder)
    (folder / "m").write_bytes(b"\x7fELF\x02\x01".ljust(18, b"\0") + b"\xb6\xff")
    assert "is for machine 65462" in told(folder)
    (folder / "m").write_bytes(b"#!/bin/sh\n")
    assert "no weight file of this version" in told(folder)


def test_work_is_as_long_as_the_model_allows() -> None:
    names = [case.name for case in cases(512, False)]
    assert names[3:] == ["encoder, tokens 32", "encoder, tokens 128", "encoder, tokens 512"]
    assert [case.name for case in cases(200, False)][3:] == names[3:5]
    short = cases(16, False)
    assert short[-1].name == "encoder, tokens 16" and all(c.source <= 16 and c.target < 16 for c in short)
    assert sources(50, 7, [3, 1]) == sources(50, 7, [3, 1]) and all(s[-1] == 7 for s in sources(50, 7, [3, 1]))


def test_the_bytes_of_a_step_are_those_of_the_decoder() -> None:
    model = small("post", "none")
    config = model.config
    found = step_bytes(model, [1] * 8, 4, False)
    matrices = config.decoder_layers * (6 * config.d_model**2 + 2 * config.d_model * config.d_ff)
    least = 4 * (matrices + config.target_vocab * config.d_model)
    assert found is not None and least < found < 1.3 * least
    assert bandwidth(1, 1 << 22) > 1e8
