"""`minitx plan` as a user calls it: tables, what calls cost on this machine, and how two plans differ."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from minitx.compiler.compare import differences, read
from minitx.compiler.costs import costs
from minitx.compiler.plan import plan
from minitx.config import preset
from minitx.errors import FileError


def minitx(*arguments):
    """(exit status, standard output, standard error)"""
    run = subprocess.run([sys.executable, "-m", "minitx", "plan", *arguments], capture_output=True, text=True)
    return run.returncode, run.stdout, run.stderr


def stored(quantization, **fields):
    return json.loads(plan(preset("tiny", quantization=quantization, **fields)).to_json())


def test_the_cost_of_a_call_is_counted_from_its_arguments():
    planned = plan(preset("tiny"))  # d 128, 4 heads of 32
    for function in planned.functions:
        by_kernel = {call.kernel: cost for call, cost in zip(function.calls, costs(planned, function), strict=True)}
        matrix, embedding = by_kernel["linear_f32"], by_kernel["embed_f32"]
        width = planned.config["d_model"]
        assert matrix.weights % (4 * 16 * width) == 4 * width and matrix.operations % (2 * width * width) == 0
        # a row of the embeddings and one of the positions, a token (and its position), and the result
        inputs = 8 if function.name == "encode" else 4
        assert (embedding.weights, embedding.row) == (0, 3 * 4 * width + inputs)
    step = by_kernel["attend_step"]
    assert (step.token, step.token_operations, step.past) == (2 * 4 * width, 4 * width, True)
    assert not by_kernel["attend_cross"].past and by_kernel["attend_cross"].token == 2 * 4 * width


def test_a_real_model_is_measured_through_the_cache():
    status, out, err = minitx(
        "en-pt", "--measure", "--quantize", "int8", "--batch", "2", "--source", "5", "--target", "3"
    )
    assert (status, err) == (0, "") and out.startswith("2 x 5 source tokens, 3 steps, threads: ")
    heading, *_ = [line for line in out.splitlines() if line.startswith("stage")]
    assert " ".join(heading.split()) == "stage kernel shape weights row operations us share GB/s GOP/s of"
    assert [line.split()[0] for line in out.splitlines()].count("wait") == 2
    status, out, _ = minitx("en-pt", "--measure", "--quantize", "int8", "--sum", "--function", "step", "--threads", "1")
    rows = [line.split() for line in out.splitlines()[3:]]
    assert rows[0][1] == "top_int8" and rows[-1][1] == "total" and "encode" not in out
    status, out, _ = minitx("en-pt", "--measure", "--quantize", "int8", "--json")
    data = json.loads(out)
    functions = data.pop("measured")["functions"]
    assert {name: len(m["calls"]) for name, m in functions.items()} == {
        f["name"]: len(f["calls"]) for f in data["functions"]
    }


def test_a_plan_that_was_written_is_compared(tmp_path):
    file = tmp_path / "plan.json"
    assert minitx("en-pt", "--out", str(file)) == (0, "", "")
    assert [f.name for f in tmp_path.iterdir()] == ["plan.json"]
    assert minitx("en-pt", "--compare", str(file)) == (0, "the plans are equal\n", "")
    status, out, err = minitx("en-pt", "--compare", str(file), "--quantize", "int8")
    assert (status, err) == (1, "") and out.startswith('config: quantization "none" -> "int8"\n')
    status, out, _ = minitx("en-pt", "--compare", str(file), "--quantize", "int8", "--json")
    assert status == 1 and json.loads(out)["equal"] is False
    status, out, err = minitx("en-pt", "--out", str(file / "below"))
    assert (status, out, err.count("\n")) == (1, "", 1) and "cannot be written" in err


def test_what_differs_is_told_in_a_few_lines():
    plain, quantized = stored("none"), stored("int8")
    assert differences(plain, plain) == []
    lines = differences(plain, quantized)
    assert len(lines) < 15 and all(len(line) < 300 for line in lines)
    assert any("linear_f32" in line and "linear_int8" in line for line in lines)
    other = json.loads(json.dumps(plain))
    step = other["functions"][1]
    step["calls"][4]["stage"] += 1
    step["buffers"][3]["offset"] += 64
    step["arena"] += 64
    other["weight_bytes"] += 1
    assert differences(plain, other) == [
        f"step: 1 of {len(step['calls'])} calls, the first attend_step",
        f"step: 1 of {len(step['buffers'])} buffers, the first {step['buffers'][3]['name']}",
        f"step: arena bytes for each row {step['arena'] - 64:,} -> {step['arena']:,}",
        f"weights: bytes {other['weight_bytes'] - 1:,} -> {other['weight_bytes']:,}",
    ]
    other = json.loads(json.dumps(plain)) | {"functions": plain["functions"][:1]}
    assert any("step" in line for line in differences(plain, other))
    other = json.loads(json.dumps(plain)) | {"functions": plain["functions"][::-1]}
    assert differences(plain, other) == ["something else"]


def test_names_from_a_file_cannot_write_to_the_terminal():
    plain = stored("none")
    other = json.loads(json.dumps(plain))
    other["config"]["\x1b[2J"] = "\ud800\n"
    other["functions"][0]["calls"][0]["kernel"] = "\x1b]0;x\x07"
    lines = differences(plain, other) + differences(other, plain)
    assert lines and all(line.isascii() and line.isprintable() for line in lines)


DAMAGE = {
    "no JSON": b"kernel",
    "not UTF-8": b"\xff\xfe\x00",
    "an end that is missing": b'{"functions": [',
    "deep": b"[" * 100_000,
    "a list": b"[]",
    "other JSON": b'{"functions": []}',
    "a long number": b"1" * 10_000,
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_file_that_is_no_plan_is_one_line(tmp_path, what):
    (tmp_path / "plan.json").write_bytes(DAMAGE[what])
    with pytest.raises(FileError, match=r"plan\.json: is not a plan of this minitx; write one with"):
        read(str(tmp_path / "plan.json"))


def test_a_plan_of_other_fields_or_types_is_no_plan(tmp_path):
    path = tmp_path / "plan.json"

    def unread(change):
        data = stored("none")
        change(data)
        path.write_text(json.dumps(data))
        with pytest.raises(FileError, match="is not a plan"):
            read(str(path))

    unread(lambda data: data.pop("weights"))
    unread(lambda data: data.update(more=1))
    unread(lambda data: data.update(weight_bytes="1"))
    unread(lambda data: data["functions"][0].update(arena=None))
    unread(lambda data: data["functions"][0]["calls"][0].pop("kernel"))
    unread(lambda data: data["functions"][0]["calls"].append(5))
    unread(lambda data: data["weights"].append(["name"]))
    path.write_text(json.dumps(stored("none")))
    assert read(str(path)) == stored("none")
    for name in ("/dev/zero", str(tmp_path), str(tmp_path / "missing")):
        with pytest.raises(FileError):
            read(name)
