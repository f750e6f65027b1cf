"""An exported web folder gives what minitx gives, in Node and in Chromium, and takes damage without harm."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import random
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import native_models
import pytest
from browser import Browser, Server, browser
from test_export import DAMAGED, DATA, LONG, NOT_WEIGHTS, OTHER, TRUNCATED, VERSION, small

import minitx
from minitx.compiler.export import LIST, export
from minitx.compiler.targets import package, wasm
from minitx.generation.search import generate
from minitx.weights.names import open_model

KINDS = {"wasm-simd": ".wasm", "wasm": ".plain.wasm"}  # the backends, and their files
PRELUDE = """
import { readFileSync } from "node:fs";
const [folder, name, given] = [process.argv[1], process.argv[2], JSON.parse(readFileSync(0))];
const { load, ModelError } = await import(`${folder}/${name}.js`);
const failure = async (work) => {
  try { return { value: await work() }; }
  catch (error) {
    const { name, code, message } = error;
    return { error: name, code, message, own: error instanceof ModelError };
  }
};
const tell = (value) => console.log(JSON.stringify(value));
"""


def node(folder: Path, script: str, given: object = None, name: str = "tiny.model") -> Any:
    """What a script tells that has the module's `load`, and `given`."""
    if shutil.which("node") is None:
        assert "CI" not in os.environ, "install nodejs"
        pytest.skip("node is not installed")
    command = ["node", "--input-type=module", "-e", PRELUDE + script, str(folder.absolute()), name]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """folder(model, quantization) exports a model, once."""

    @cache
    def made(model: str, quantization: str) -> Path:
        out, real = tmp_path_factory.mktemp("wasm") / "out", model in ("en-pt", "pt-en")
        checkpoint = open_model(model, quantization) if real else small(model, quantization)
        export(checkpoint, "wasm", out, package.Options(model if real else "tiny.model"))
        return out

    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "quantization"), [("post", "int8"), ("ssru", "none"), ("odd", "int4"), ("odd", "none")]
)
def test_ids_are_those_of_the_native_engine(folder, model: str, quantization: str) -> None:
    engine, checkpoint = native_models.native(model, quantization), small(model, quantization)
    sources = native_models.sentences(*range(1, 20), 64)
    script = """
    const found = [];
    for (const backend of given.backends) {
      const model = await load({ backend });
      const ids = [];
      for (const beam of [1, 4])
        for (const source of given.sources) ids.push((await model.generate(source, { beam })).ids);
      found.push([model.backend, ids]);
    }
    tell(found);"""
    found = node(folder(model, quantization), script, {"sources": sources, "backends": [*KINDS]})
    expected = []
    for beam in (1, 4):
        best = generate(engine, sources, dataclasses.replace(checkpoint.generation, beam=beam))
        expected += [[*hypotheses[0].tokens] for hypotheses in best]
    assert found == [[backend, expected] for backend in KINDS]


@pytest.mark.slow
def test_text_is_translated_line_by_line_and_told_piece_by_piece(folder) -> None:
    texts = ["", "a", "abc def", "\n", "ab\n\ncd\n", "x" * 40, "a\ud83d\ude00b", "\ufeffab", "a\0b"]
    script = """
    const model = await load();
    const found = [];
    for (const text of given) {
      const pieces = [];
      const whole = await model.translate(text, { maxLength: 64, onPiece: (piece) => pieces.push(piece) });
      const lines = [];
      for (const line of text.split("\\n")) {
        const ids = await model.encode(line);
        lines.push(await model.decode((await model.generate(ids, { maxLength: 64 })).ids));
      }
      found.push([whole, pieces, lines.join("\\n")]);
    }
    tell(found);"""
    found = node(folder("post", "int8"), script, texts)
    for text, (whole, pieces, lines) in zip(texts, found, strict=True):
        assert whole == "".join(pieces) == lines and whole.count("\n") == text.count("\n"), text
    assert found[0] == ["", [], ""] and len(found[2][1]) > 5
    # the room of a text of one letter is 20 bytes at first, and what was told is not told again when there is more
    assert len(found[1][0].encode()) > 20 and len(found[1][1]) > 5


@pytest.mark.slow
def test_half_a_surrogate_pair_is_a_replacement_character(folder) -> None:
    script = """
    const model = await load();
    const texts = ["a\\ud800b", "a\\ufffdb", "\\udc00", "\\ufffd"];
    tell([await Promise.all(texts.map((text) => model.translate(text))), await model.encode(texts[0])]);"""
    texts, ids = node(folder("post", "int8"), script)
    assert texts[0] == texts[1] and texts[2] == texts[3] and 1 in ids  # the id of what is unknown


@pytest.mark.slow
def test_damaged_weights_are_an_error_with_the_c_interfaces_message(folder) -> None:
    out, generator = folder("post", "int8"), random.Random(0)
    size = (out / "tiny.model.weights").stat().st_size
    flips = {0: NOT_WEIGHTS, 8: VERSION, 12: NOT_WEIGHTS, 16: DAMAGED, 24: OTHER, 32: TRUNCATED, size - 1: DAMAGED}
    flips |= {generator.randrange(40, size): DAMAGED for _ in range(100)}
    cuts = {0: NOT_WEIGHTS, 7: NOT_WEIGHTS, 8: TRUNCATED, 39: TRUNCATED, 100: TRUNCATED, size - 1: TRUNCATED}
    script = """
    const whole = readFileSync(`${folder}/${name}.weights`);
    const found = [];
    for (const place of given.flips) {
      const weights = new Uint8Array(whole);
      weights[place] ^= 1;
      found.push(await failure(() => load({ weights })));
    }
    for (const end of given.cuts) found.push(await failure(() => load({ weights: whole.subarray(0, end) })));
    const longer = new Response(new Blob([whole, new Uint8Array(64)]));
    found.push(await failure(() => load({ weights: longer })));
    found.push(await failure(() => load({ weights: given.other })));
    found.push(await failure(() => load({ weights: "./none" })));
    found.push(await failure(() => load({ weights: new Response("no", { status: 404, statusText: "Not Found" }) })));
    const model = await load({ weights: new Response(whole) });
    found.push(await model.translate("abc") === await (await load({ weights: whole })).translate("abc"));
    tell(found);"""
    given = {"flips": [*flips], "cuts": [*cuts], "other": str(folder("odd", "none") / "tiny.model.weights")}
    *told, longer, other, none, failed, same = node(out, script, given)
    assert [each["code"] for each in told] == [*flips.values(), *cuts.values()] and all(each["own"] for each in told)
    assert told[0]["message"].startswith("this is no weight file") and told[0]["error"] == "ModelError"
    assert (longer["code"], other["code"], same) == (TRUNCATED, OTHER, True)
    assert "none: cannot be read (ENOENT" in none["message"] and "cannot be read (404 Not Found)" in failed["message"]


@pytest.mark.slow
def test_what_cannot_be_done_is_an_error_that_names_it(folder) -> None:
    script = """
    const model = await load({ limits: { source: 8, target: 8, beam: 2 } });
    const stopping = new AbortController();
    const works = [
      () => model.translate("a".repeat(9), { split: false }), () => model.translate(5),
      () => model.translate("a", { beam: 3 }),
      () => model.translate("a", { beam: 1.5 }), () => model.translate("a", { maxLength: -1 }),
      () => model.generate([96]), () => model.generate(["x"]), () => load({ limits: { source: 65 } }),
      () => load({ limits: { beam: "2" } }), () => load({ backend: "z80" }),
      () => model.translate("ab", { onPiece() { throw new RangeError("mine"); } }),
      () => model.translate("ab", { signal: stopping.signal, onPiece() { stopping.abort(); } }),
      () => model.translate("ab", { signal: stopping.signal }), () => load({ signal: stopping.signal }),
    ];
    const found = [];
    for (const work of works) found.push(await failure(work));
    tell([found, await model.translate("ab")]);"""
    found, after = node(folder("post", "int8"), script)
    expected = [LONG, None, 11, None, None, 12, None, 9, None, None]
    assert [each.get("code") for each in found[:10]] == expected
    named = ["too long", "must be a string", "options", "beam", "maxLength", "token", "token", "limits", "beam", "z80"]
    assert all(name in each["message"] for name, each in zip(named, found, strict=False)) and after
    assert [each["error"] for each in found[10:]] == ["RangeError", *["AbortError"] * 3]


@pytest.mark.slow
def test_models_and_calls_do_not_know_of_each_other(folder) -> None:
    script = """
    const texts = [...Array(20).keys()].map((i) => "abcdefghij".slice(i % 10) + "k".repeat(i));
    const one = await load();
    const alone = [];
    for (const text of texts) alone.push(await one.translate(text));
    const two = await load();
    const nested = [];
    const both = texts.map((text, i) => [one, two][i % 2].translate(text, {
      onPiece: () => { if (nested.length <= i) nested[i] = one.translate(text); },
    }));
    const plural = await Promise.all([...both, ...texts.map((text) => two.translate(text))]);
    tell([alone, plural, await Promise.all(nested)]);"""
    alone, plural, nested = node(folder("ssru", "none"), script)
    assert plural == alone * 2 and nested == alone and len({*alone}) > 5


@pytest.mark.slow
def test_the_package_asks_for_nothing_and_is_found_by_its_name(folder, tmp_path: Path) -> None:
    out = folder("post", "int8")
    script = """
    const modules = given.map((file) => new WebAssembly.Module(readFileSync(`${folder}/${file}`)));
    const imports = modules.map(WebAssembly.Module.imports);
    const validate = WebAssembly.validate;
    const best = (await load()).backend;
    WebAssembly.validate = () => false;
    const fallback = (await load()).backend;
    const refused = await failure(() => load({ backend: "wasm-simd" }));
    tell([imports, best, fallback, refused.message]);"""
    files = [f"tiny.model{suffix}" for suffix in KINDS.values()]
    imports, best, fallback, refused = node(out, script, files)
    assert imports == [[], []] and (best, fallback) == ("wasm-simd", "wasm") and "does not run here" in refused
    described = json.loads((out / "package.json").read_text())
    listed = {*(out / LIST).read_text().splitlines()}
    assert {*described["files"]} == listed - {LIST, "package.json"}
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules/tiny.model").symlink_to(out)
    script = 'import { load } from "tiny.model"; console.log(await (await load()).translate("abc"))'
    (tmp_path / "main.mjs").write_text(script)
    found = subprocess.run(["node", "main.mjs"], cwd=tmp_path, capture_output=True, text=True)
    assert found.stdout.strip() == node(out, 'tell(await (await load()).translate("abc"))'), found.stderr
    sources = [path.read_text() for path in out.iterdir() if path.suffix in (".js", ".html", ".css", ".ts")]
    assert not any("http:" in text or "https:" in text or "MODEL_" in text or "minitx_" in text for text in sources)


IDLE = "document.getElementById('output').getAttribute('aria-busy') === 'false'"
READY = "document.getElementById('go') && !document.getElementById('go').disabled"


def shown(page: Browser, name: str) -> str:
    return page.evaluate(f"document.getElementById('{name}').textContent")


def translated(page: Browser, text: str, beam: int = 1) -> str:
    """What the page makes of a text that is typed and sent by the keyboard."""
    page.evaluate(f"document.getElementById('beam').value = '{beam}'; document.getElementById('text').value = ''")
    page.evaluate("document.getElementById('text').focus()")
    page.call("Input.insertText", text=text)
    page.key("Enter", code="Enter", modifiers=2, windowsVirtualKeyCode=13)
    page.wait(f"{IDLE} && document.getElementById('output').textContent")
    return shown(page, "output")


@pytest.mark.slow
def test_the_page_works_without_a_network_once_it_was_loaded(folder, tmp_path: Path) -> None:
    out, served = folder("post", "int8"), tmp_path / "served"
    shutil.copytree(out, served)
    server = Server(served)
    text = "abc def\n\nbad"
    expected = node(out, "tell(await (await load()).translate(given, { beam: 1 }))", text)
    with browser() as page:
        page.open(server.url)
        page.wait(READY)
        assert translated(page, text) == expected and shown(page, "backend") == "wasm-simd"
        assert "pieces in" in shown(page, "speed") and page.evaluate("document.getElementById('times').rows.length") > 5
        page.wait("document.getElementById('kept').textContent")
        page.evaluate("navigator.serviceWorker.ready.then(() => true)")
        assert {path.partition("?")[0] for path in server.seen} <= {"/", *(f"/{p.name}" for p in out.iterdir())}
        assert all(event["params"]["request"]["url"].startswith((server.url, "data:")) for event in requests(page))
        assert not [event for event in page.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
        server.stop()
        page.open(f"{server.url}?backend=wasm")
        page.wait(READY)
        assert shown(page, "backend") == "wasm" and shown(page, "kept").startswith("The weights are kept")
        assert node(
            out, "tell(await (await load({ backend: 'wasm' })).translate(given, { beam: 1 }))", text
        ) == translated(page, text)
        shutil.rmtree(served)
        export(small("ssru", "none"), "wasm", served, package.Options("tiny.model"))
        server = Server(served, server.port)
        page.open(server.url)
        page.wait(READY)
        page.wait("caches.keys().then((names) => names.length === 1)")
        page.open(server.url)
        page.wait(READY)
        assert translated(page, text) == node(served, "tell(await (await load()).translate(given, { beam: 1 }))", text)
        (served / "tiny.model.weights").unlink()
        page.evaluate("caches.keys().then((names) => Promise.all(names.map((name) => caches.delete(name))))")
        page.open(server.url)
        page.wait("document.getElementById('error') && !document.getElementById('error').hidden")
        assert "cannot be read (404" in shown(page, "error")
    server.stop()


def requests(page: Browser) -> list[dict[str, Any]]:
    return [event for event in page.events if event["method"] == "Network.requestWillBeSent"]


@pytest.mark.slow
def test_the_page_can_be_used_by_keyboard_screen_reader_and_on_a_phone(folder, tmp_path: Path) -> None:
    server = Server(folder("post", "int8"))
    with browser() as page:
        page.open(server.url)
        page.wait(READY)
        translated(page, "abc\n" + "d" * 60)
        order = []
        page.evaluate("document.getElementById('text').focus()")
        for _ in range(4):
            page.key("Tab", code="Tab", windowsVirtualKeyCode=9)
            order.append(page.evaluate("document.activeElement.id || document.activeElement.tagName.toLowerCase()"))
        assert order == ["go", "beam", "copy", "summary"]
        tree = page.call("Accessibility.getFullAXTree")["nodes"]
        named = {(node["role"]["value"], node["name"]["value"]) for node in tree if "name" in node and "role" in node}
        assert {("textbox", "Text, a sentence a line"), ("button", "Translate"), ("region", "Translation")} <= named
        assert any(role == "combobox" and name.startswith("Search") for role, name in named)
        for width, dark in ((320, False), (1000, True)):
            page.screenshot(tmp_path / "page.png", width, 700, dark)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(CONTRAST) >= 4.5
    server.stop()


# The least ratio of luminances (WCAG 2.2, 1.4.3) of a text and what it stands on.
CONTRAST = """
(() => {
  const light = (color) => {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = color.match(/[\\d.]+/g).map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    const color = getComputedStyle(element).backgroundColor;
    return color === "rgba(0, 0, 0, 0)" ? ground(element.parentElement) : color;
  };
  const ratios = [...document.querySelectorAll("body *")]
    .filter((element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .map((element) => [light(getComputedStyle(element).color), light(ground(element))].sort((a, b) => b - a))
    .map(([more, less]) => (more + 0.05) / (less + 0.05));
  return Math.min(...ratios);
})()"""


@pytest.mark.slow
def test_text_is_that_of_minitx_in_node_and_in_chromium(folder) -> None:
    out, texts = folder("en-pt", "int8"), (DATA / "sentences.en.txt").read_text().splitlines()
    theirs = minitx.load("en-pt", quantize="int8")
    script = "const model = await load(); tell(await model.translate(given[0], { beam: given[1] }))"
    found = {}
    for beam, some in ((1, texts), (4, texts[:10])):
        found[beam] = node(out, script, ["\n".join(some), beam], "en-pt").split("\n")
        assert found[beam] == theirs(some, beam=beam)
    server = Server(out)
    with browser() as page:
        page.open(server.url)
        page.wait(READY)
        assert translated(page, "\n".join(texts[:30])).split("\n") == found[1][:30]
        assert translated(page, "\n".join(texts[:10]), 4).split("\n") == found[4]
    server.stop()


@pytest.mark.slow
def test_the_code_is_small(folder) -> None:
    out = folder("en-pt", "int8")
    for suffix in KINDS.values():
        module = (out / f"en-pt{suffix}").read_bytes()
        assert len(module) <= 200_000 and len(gzip.compress(module, 9)) <= 80_000
        assert f"{len(module):,} bytes" in (out / "README.md").read_text()
    assert [row.suffix for row in wasm.MODULES] == [*KINDS.values()]
