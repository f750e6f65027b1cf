"""The command line as a user meets it: real processes, real models, exact exit statuses."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from minitx import __version__
from minitx.cli import COMMANDS


def start(*arguments, **options):
    command = [sys.executable, "-m", "minitx", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def minitx(*arguments, stdin=b"", **options):
    """(exit status, standard output, standard error) of one call; standard input is a pipe that holds `stdin`."""
    process = start(*arguments, stdin=subprocess.PIPE, **options)
    out, err = process.communicate(stdin, timeout=300)
    return process.returncode, out.decode(), err.decode()


def error(*arguments, **options):
    """The one line that a failure is told in."""
    status, out, err = minitx(*arguments, **options)
    assert status == 1 and out == ""
    assert err.startswith("minitx: error: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """en-pt as one file."""
    path = tmp_path_factory.mktemp("model") / "en-pt.safetensors"
    assert minitx("convert", "en-pt", str(path))[0] == 0
    return str(path)


def test_run_translates_its_arguments():
    assert minitx("run", "en-pt", "How are you today?") == (0, "Como você está hoje?\n", "")


def test_a_converted_file_gives_the_same(file):
    text = "The children were playing happily in the garden."
    assert minitx("run", file, text)[1] == minitx("run", "en-pt", text)[1]
    assert "alegremente" in minitx("run", file, text)[1]


def test_run_answers_a_pipe_line_by_line(file):
    process = start("run", file, stdin=subprocess.PIPE)
    for line, answer in [(b"Hello.\n", "Olá.\n"), (b"\n", "\n"), (b"Good morning.\n", "Bom dia.\n")]:
        process.stdin.write(line)
        process.stdin.flush()
        assert process.stdout.readline().decode() == answer  # before the next line is sent
    process.stdin.close()
    assert process.wait(60) == 0
    process.stdout.close(), process.stderr.close()


def test_run_takes_a_file_in_batches_and_keeps_every_line(file, tmp_path):
    text = tmp_path / "text"
    text.write_bytes(b"Hello.\n\n  \nGood morning. How are you?\r\nHello.")
    with open(text, "rb") as stdin:
        process = start("run", file, "--batch-size", "2", stdin=stdin)
        out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, b"")
    assert out.decode().split("\n") == ["Olá.", "", "  ", "Bom dia. Como você está?", "Olá.", ""]


def test_run_json_is_one_object_a_line(file):
    status, out, _ = minitx("run", file, "--json", "Hello.", "")
    first, second = map(json.loads, out.splitlines())
    assert status == 0
    assert first["source"] == "Hello." and first["text"] == "Olá." and first["score"] < 0
    assert "".join(first["tokens"]).replace("▁", " ").strip() == "Olá."
    assert set(first["seconds"]) == {"tokenize", "search", "detokenize"}
    assert (second["text"], second["tokens"]) == ("", [])


def test_run_prints_n_best_with_scores_best_first(file):
    _, out, _ = minitx("run", file, "--beam", "3", "--n-best", "3", "--scores", "I would like some water.")
    lines = [line.split("\t") for line in out.splitlines()]
    assert len({text for _, text in lines}) == 3
    assert sorted(lines, key=lambda line: -float(line[0])) == lines


def test_stream_prints_what_run_prints(file):
    text = "Good morning. The weather is fine today, isn't it?"
    assert minitx("run", file, "--stream", text) == minitx("run", file, text)


def test_a_text_beyond_the_longest_is_refused_if_it_may_not_be_split(file):
    assert "the model takes 512 at a time" in error("run", file, "--no-split", "word " * 700)


def test_eval_scores_pairs(file, tmp_path):
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("Hello.\tOlá.\nHow are you today?\tComo você está hoje?\nNo\tNunca mais\n")
    status, out, _ = minitx("eval", file, str(pairs), "--limit", "2", "--json")
    result = json.loads(out)
    assert status == 0 and result["pairs"] == 2
    assert result["bleu"] == pytest.approx(100) and result["chrf"] == pytest.approx(100)
    assert "tok:13a" in result["bleu_signature"]
    pairs.write_bytes(b"\xef\xbb\xbfBom dia.\tGood morning.\r\n")
    assert json.loads(minitx("eval", "pt-en", str(pairs), "--json", "--metric", "chrf")[1])["chrf"] == 100
    assert json.loads(minitx("eval", file, str(pairs), "--swap", "--json")[1])["chrf"] == 100


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"one column\n", "line 1: 1 columns"),
        (b"a\tb\nc\td\te\n", "line 2: 3 columns"),
        (b"a\tb\nc\t\xff\n", "line 2, byte 3: not UTF-8"),
    ],
)
def test_eval_names_what_is_wrong_with_the_pairs(file, tmp_path, content, words):
    pairs = tmp_path / "pairs.tsv"
    pairs.write_bytes(content)
    assert words in error("eval", file, str(pairs))


def test_info_tells_architecture_and_bytes(file):
    facts = json.loads(minitx("info", file, "--json")[1])
    assert facts["architecture"]["d_model"] == 256 and facts["architecture"]["parameters"] == 16_907_008
    sizes = facts["bytes"]
    assert sizes["total"] - sizes["shortlist"] == 4 * 16_907_008 == sum(list(sizes.values())[:-2])
    assert facts["shortlist"]["always"] == 50 and facts["shortlist"]["candidates"] > 900_000
    assert facts["provenance"]["licence"] == "MPL-2.0"
    assert "unigram, 32000 pieces" in minitx("info", "en-pt")[1]


def test_models_names_source_size_and_licence():
    rows = {row["name"]: row for row in json.loads(minitx("models", "--json")[1])}
    assert set(rows) == {"en-pt", "pt-en"} and all(row["available"] and row["licence"] for row in rows.values())
    assert "Firefox Translations" in minitx("models")[1]


def test_help_and_version_are_instant_and_complete():
    out = minitx("--help")[1]
    assert all(command in out for command in COMMANDS) and "examples:" in out
    assert minitx("--version")[1] == f"minitx {__version__}\n"
    for command in COMMANDS:
        status, out, _ = minitx(command, "--help")
        assert status == 0 and "examples:" in out
    code = "import sys; from minitx.cli import main_parser; main_parser().format_help(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "tinygrad", "tokenizers", "safetensors", "yaml", "tqdm"} & set(modules)


@pytest.mark.parametrize(
    "arguments",
    [(), ("fly",), ("run",), ("run", "en-pt", "--beam", "0"), ("run", "en-pt", "--engine", "x"), ("eval", "en-pt")],
)
def test_wrong_usage_exits_with_2(arguments):
    status, out, err = minitx(*arguments)
    assert (status, out) == (2, "") and "usage: minitx" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "en-xx", "Hello."), "en-pt, pt-en"),
        (("run", "none.safetensors", "Hello."), "none.safetensors"),
        (("run", "en-pt", "Hello.", "--device", "TPU"), "choose one of: CPU"),
        (("run", "en-pt", "Hello.", "--device", "METAL"), "not available"),
        (("run", "en-pt", "--stream", "--json", "Hello."), "--stream is greedy"),
        (("run", "en-pt", b"\xff\xfe"), "surrogate"),
        (("convert", "en-pt", "model.bin"), "must end in .safetensors"),
        (("convert", "en-pt", "/dev/null/x.safetensors"), "cannot be written"),
        (("eval", "en-pt", "missing.tsv"), "'missing.tsv': cannot be read"),
    ],
)
def test_a_failure_is_one_line(arguments, words):
    assert words in error(*arguments)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_behind_standard_output_is_one_line():
    with open("/dev/full", "wb") as full:
        child = subprocess.run([sys.executable, "-m", "minitx", "models"], stdout=full, stderr=subprocess.PIPE)
    assert child.returncode == 1
    assert child.stderr.startswith(b"minitx: error: standard input or output failed") and child.stderr.count(b"\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="a shell's way to close standard input")
def test_no_standard_input_at_all_is_one_line(file):
    command = f"exec {sys.executable} -m minitx run {file} <&-"
    child = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (child.returncode, child.stdout) == (1, "")
    assert child.stderr == "minitx: error: there is neither a TEXT nor a standard input; give one of them\n"


@pytest.mark.parametrize("options", [[], ["--stream"], ["--json"]])
@pytest.mark.skipif(os.name == "nt", reason="there are no pseudo-terminals there")
def test_on_a_terminal_nothing_is_left_around_the_answer(file, options):
    out = on_a_terminal("run", file, "No, thank you.", *options).decode()
    *_, answer, end = re.split(r"[\r\n]+", out)
    assert end == ""
    assert (json.loads(answer)["text"] if options == ["--json"] else answer) == "Não, obrigado."


@pytest.mark.skipif(os.name == "nt", reason="a shell's way to close a file")
def test_closed_output_is_nobodys_trouble(tmp_path):
    command = f"exec {sys.executable} -m minitx convert en-pt {tmp_path}/m.safetensors >&- 2>&-"
    assert subprocess.run(["sh", "-c", command]).returncode == 0
    assert (tmp_path / "m.safetensors").stat().st_size > 60_000_000
    command = f"exec {sys.executable} -m minitx info nothing 2>&-"
    child = subprocess.run(["sh", "-c", command], capture_output=True)
    assert (child.returncode, child.stdout) == (1, b"")


def test_input_that_is_not_utf8_names_its_place(file):
    status, out, err = minitx("run", file, stdin=b"Hello.\nab\xff\n")
    assert (status, out) == (1, "Olá.\n")
    assert err == "minitx: error: standard input, line 2, byte 3: not UTF-8; convert it, for example with iconv\n"


def test_a_closed_pipe_ends_quietly(file):
    process = start("run", file, stdin=subprocess.PIPE)
    process.stdin.write(b"Hello.\n")
    process.stdin.flush()
    assert process.stdout.readline()
    process.stdout.close()
    process.stdin.write(b"Good morning.\n" * 3)
    process.stdin.close()
    assert process.wait(60) == 141 and process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.skipif(os.name == "nt", reason="there are no pseudo-terminals there")
def test_what_takes_long_is_told_on_a_terminal_and_wiped_away(file, tmp_path):
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("Hello.\tOlá.\n" * 3)
    said = on_a_terminal("eval", file, str(pairs), "--json")
    assert b"loading" in said and b"0sentence" in said
    assert json.loads(said[said.index(b"{") :])["pairs"] == 3


def on_a_terminal(*arguments):
    """All that a command writes on a terminal, data and the rest."""
    import termios

    leader, follower = os.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    command = [sys.executable, "-m", "minitx", *arguments]
    process = subprocess.Popen(command, stdout=follower, stderr=follower)
    os.close(follower)
    said = b""
    try:
        while chunk := os.read(leader, 4096):
            said += chunk
    except OSError:  # how Linux tells that the other side is closed
        pass
    os.close(leader)
    assert process.wait(60) == 0
    return said


@pytest.mark.skipif(os.name == "nt", reason="signals are another matter there")
def test_ctrl_c_is_not_lost_while_something_is_freed():
    code = (
        "import signal, sys, time\n"
        "from minitx import cli\n"
        "from minitx.commands import models\n"
        "class Freed:\n"
        "    def __del__(self): signal.raise_signal(signal.SIGINT)\n"
        "def run(args):\n"
        "    Freed(); time.sleep(20)\n"
        "models.run = run\n"
        "sys.exit(cli.main(['models']))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=15)
    assert (run.returncode, run.stderr) == (130, "minitx: stopped\n")


def test_ctrl_c_exits_with_130_and_leaves_nothing_half_written(file, tmp_path):
    process = start("run", file, stdin=subprocess.PIPE)
    process.stdin.write(b"Hello.\n")
    process.stdin.flush()
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert b"Traceback" not in process.stderr.read()
    process.stdin.close(), process.stdout.close(), process.stderr.close()
    for delay in (0.2, 0.5, 0.8):
        process = start("convert", "en-pt", str(tmp_path / "m.safetensors"))
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert b"Traceback" not in err and process.returncode in (0, 130, -signal.SIGINT)
        assert {p.name for p in tmp_path.iterdir()} <= {"m.safetensors"}
