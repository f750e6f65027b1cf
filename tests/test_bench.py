"""The bench: every engine makes as many steps as it is asked for, and the report says what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import measure, peers, report
from bench.cases import CASES, Row, check
from bench.shapes import NEVER, SHAPES, names, sentences
from minitx.measuring.turns import Worker, WorkerError

ROOT = Path(__file__).parents[1]
ROW = Row("base", "int8", "greedy", "a step", 2, {"minitx": [1e-3, 2e-3, 1.5e-3], "peer": [3e-3] * 3}, 1e-3, ["a note"])
ABOUT = report.About("a processor", 2, 2e10, {"peer": "peer 1.0"}, "python -m bench")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=570)


def test_a_small_run_measures_all_that_is_asked_for() -> None:
    asked = [
        "--shape",
        "tiny",
        "--quick",
        "--rounds",
        "1",
        "--case",
        "beam",
        "--case",
        "encoder-32",
        "--precision",
        "f32",
    ]
    done = run(*asked, "--peer", "minitx", "--peer", "PyTorch", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(row["case"], row["precision"]) for row in found["rows"]] == [("beam", "f32"), ("encoder-32", "f32")]
    assert all(set(row["seconds"]) == {"minitx", "PyTorch"} and row["limit"] > 0 for row in found["rows"])
    assert not any(row["notes"] for row in found["rows"]), "both gave the same tokens"


def test_the_plot_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "cost.png"
    arguments = ["--shape", "tiny", "--quick", "--case", "none", "--peer", "minitx", "--threads", "1"]
    done = run(*arguments, "--plot", str(path))
    assert done.returncode == 0, done.stderr
    assert path.read_bytes().startswith(b"\x89PNG")


def test_help_shows_examples_and_wrong_options_are_refused() -> None:
    assert "python -m bench --quick" in run("--help").stdout
    for wrong in (["--case", "other"], ["--threads", "0"], ["--shape", "huge"]):
        assert run(*wrong).returncode == 2


def test_a_peer_that_is_not_installed_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.__main__ import engines

    monkeypatch.setattr(peers.CTranslate2, "packages", ("no-such-package",))
    assert "CTranslate2" not in engines(None)
    assert "CTranslate2 is left out: no-such-package not installed" in capsys.readouterr().err


class Broken:
    def __init__(self, what: str):
        raise ValueError("does not\nwork")


def test_a_peer_that_fails_is_one_line() -> None:
    with pytest.raises(WorkerError, match="ValueError: does not work"):
        Worker(Broken, ("x",), 1, {})


def test_other_steps_end_the_run_and_other_tokens_are_told() -> None:
    with pytest.raises(SystemExit, match="other steps"):
        check({"minitx": [[1, 2]], "peer": [[1]]}, [2], "int8")
    assert check({"minitx": [[1, 2]], "peer": [[1, 3]]}, [2], "int8") == []
    assert check({"minitx": [[1, 2]], "peer": [[1, 3]]}, [2], "f32")
    assert check({"minitx": [[1, 2]], "peer": [[1, 2]]}, [2], "f32") == []


def test_the_bytes_of_a_step_are_those_of_its_matrices() -> None:
    shape = SHAPES["base"]
    matrices = 6 * (6 * 512**2 + 2 * 512 * 2048) + 32000 * 512
    assert shape.step_bytes("f32", 0, 1, 0, 0) == 4 * matrices
    assert shape.step_bytes("int8", 1, 4, 32, 10) - matrices == 6 * 2 * 512 * 4 * (32 + 40)
    assert shape.encoder_bytes("int8") == 6 * (4 * 512**2 + 2 * 512 * 2048) + 6 * 2 * 512**2


def test_sources_are_of_the_lengths_that_are_asked_for() -> None:
    shape = SHAPES["tiny"]
    found = sentences(shape, [1, 5, 60])
    assert [len(s) for s in found] == [1, 5, 60] and all(s[-1] == 0 and max(s) < shape.pad for s in found)
    assert len(names(shape)) == len(set(names(shape))) == shape.vocab and NEVER < -1e6
    chunks, steps = measure.batches(sentences(shape, [9, 3, 7, 5, 1]), 2)
    assert [[len(s) for s in chunk] for chunk in chunks] == [[1, 3], [5, 7], [9]] and steps == [3, 7, 9]


def test_the_table_holds_medians_ratios_and_the_limit() -> None:
    text = report.markdown([ROW], ABOUT)
    assert (
        "| base, int8 | a step | 1.5 ms \u00b1 17% | 3 ms \u00b1 0%, **2 \u00d7** | 1 ms (minitx 1.5 \u00d7) |" in text
    )
    assert "a note" in text and "20.0 GB/s" in text and "peer 1.0" in text
    assert json.loads(report.as_json([ROW], ABOUT, []))["rows"][0]["median"]["peer"] == 3e-3
    assert CASES.keys() >= {"greedy", "beam", "batch", "file"}


def test_the_readme_changes_between_its_marks_alone(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n")
    for text in ("one\n", "two\n"):
        report.write_readme(text, path)
        assert path.read_text() == f"before\n<!-- bench -->\n{text}\n<!-- /bench -->\nafter\n"
    path.write_text("no place")
    with pytest.raises(SystemExit, match="bench"):
        report.write_readme("text", path)
