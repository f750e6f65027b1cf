/* MODEL_TITLE, in JavaScript, made by minitx MODEL_VERSION. How to use it: README.md and MODEL_NAME.d.ts beside this file.
 *
 *     import { load } from "./MODEL_NAME.js";
 *     const model = await load();
 *     console.log(await model.translate("How are you?"));
 *
 * From top to bottom: which .wasm runs here; how files are read; Wasm, which is the C interface and the memory that it
 * works in; Model, which is what users hold. The .wasm has neither an allocator nor imports. Its memory, from the bottom:
 *
 *     0          constants and stack of the code
 *     arguments  structures that calls are given, and numbers that they give back, at fixed places
 *     weights    the weight file as it came, used where it lies
 *     workspace  the open model
 *     room       what one call reads and writes: grows where it has to
 */

const WEIGHTS = new URL("./MODEL_NAME.weights", import.meta.url);

/* (func (result v128) i32.const 0 i8x16.splat): valid where there is SIMD. */
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11];

/* What can run the model, best first. */
const BACKENDS = {
  "wasm-simd": { code: new URL("./MODEL_NAME.wasm", import.meta.url), works: () => WebAssembly.validate(new Uint8Array(SIMD)) },
  wasm: { code: new URL("./MODEL_NAME.plain.wasm", import.meta.url), works: () => true },
};

/* What can run it on a GPU, in a package that has that. */
const GPU = MODEL_GPU;

function choose(name) {
  if (name === undefined || name === "auto" || (GPU && name === "webgpu")) return Object.keys(BACKENDS).find((each) => BACKENDS[each].works());
  if (Object.hasOwn(BACKENDS, name) && BACKENDS[name].works()) return name;
  throw new TypeError(`backend ${name} is not known or does not run here; choose from ${Object.keys(BACKENDS).join(", ")}`);
}

/* ---- files ---- */

const FILES = "node:fs/promises"; /* a name that bundlers do not look for */

async function* localFile(url) {
  const { open } = await import(/* webpackIgnore: true */ /* @vite-ignore */ FILES);
  const file = await open(url);
  try {
    yield* file.createReadStream({ highWaterMark: 1 << 20, autoClose: false });
  } finally {
    await file.close();
  }
}

async function* body(response, name) {
  if (!response.ok) throw new Error(`${name}: cannot be read (${response.status} ${response.statusText})`);
  const reader = response.body.getReader();
  try {
    for (let part; !(part = await reader.read()).done; ) yield part.value;
  } finally {
    await reader.cancel();
  }
}

/* The bytes of a file as they come. `source` is a URL, a Response or bytes. */
async function* chunks(source, signal) {
  if (source instanceof ArrayBuffer) yield new Uint8Array(source);
  else if (ArrayBuffer.isView(source)) yield new Uint8Array(source.buffer, source.byteOffset, source.byteLength);
  else if (typeof Response === "function" && source instanceof Response) yield* body(source, source.url || "response");
  else {
    const url = new URL(source, import.meta.url);
    const local = url.protocol === "file:" && typeof process === "object";
    try {
      if (local) yield* localFile(url);
      else yield* body(await fetch(url, { signal }), url.href);
    } catch (error) {
      if (error.name === "AbortError" || error.message.startsWith(url.href)) throw error;
      throw new Error(`${url.href}: cannot be read (${error.message})`, { cause: error });
    }
  }
}

async function whole(source, signal) {
  const parts = [];
  for await (const part of chunks(source, signal)) parts.push(part);
  return new Blob(parts).arrayBuffer();
}

/* ---- the C interface ---- */

/* As the C interface numbers them. */
const ERRORS = { NO_MEMORY: 2, OUTPUT: 14, STOPPED: 16 };
/* The structures of the C interface, all of int: the word of each field, which zero leaves at its default. */
const LIMITS = { source: 0, target: 1, beam: 2 };
const OPTIONS = { beam: 0, maxLength: 1 };
const PIECE = 2; /* a word of the options, too */
const TURN = ["rows", "top", "position", "tokens", "before", "allowed", "ids", "scores"];
/* Where the arguments lie, from their beginning, in bytes. */
const AT = { limits: 0, options: 256, needed: 512, model: 520, score: 528, turn: 544, end: 1024 };
const HEAD = { magic: "minitxw\0", bytes: 32, size: 40 }; /* of a weight file: where it says its own size */
const MOST = 2 ** 30; /* bytes of memory that are taken because a file says so, before they come */
const SPARE = 16; /* bytes of room beyond what a text of so many bytes mostly becomes */

/* (module (func (import "" "") (export "") (param i32 i32 i32) (result i32))): makes of a function of JavaScript one that
 * the table of another module can hold. */
const CALLBACK = [0, 97, 115, 109, 1, 0, 0, 0, 1, 8, 1, 96, 3, 127, 127, 127, 1, 127, 2, 5, 1, 0, 0, 0, 0, 7, 4, 1, 0, 0, 0];

const encoder = new TextEncoder(); /* half a surrogate pair becomes U+FFFD */
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

const aligned = (place) => Math.ceil(place / 64) * 64;

/** What the model or its files did wrong; `code` is the number of the C interface. */
export class ModelError extends Error {
  constructor(message, code) {
    super(message);
    this.name = "ModelError";
    this.code = code;
  }
}

class Wasm {
  #exports;
  #model;
  #piece; /* where the table has the callback */
  #told; /* what the callback does now */

  constructor(module) {
    this.#exports = new WebAssembly.Instance(module).exports;
    this.arguments = aligned(this.#exports.__heap_base.value);
    this.weights = this.arguments + AT.end;
    const callback = new WebAssembly.Module(new Uint8Array(CALLBACK));
    const told = (user, text, bytes) => this.#told(text >>> 0, bytes);
    const table = this.#exports.__indirect_function_table;
    this.#piece = table.grow(1);
    table.set(this.#piece, new WebAssembly.Instance(callback, { "": { "": told } }).exports[""]);
  }

  static async compile(source, signal) {
    return new Wasm(await WebAssembly.compile(await whole(source, signal)));
  }

  get bytes() {
    return new Uint8Array(this.#exports.memory.buffer);
  }

  /* Makes sure that there is memory up to here. */
  reserve(end) {
    const missing = end - this.#exports.memory.buffer.byteLength;
    try {
      if (missing > 0) this.#exports.memory.grow(Math.ceil(missing / 65536));
    } catch {
      this.check(ERRORS.NO_MEMORY);
    }
  }

  check(error) {
    if (!error) return;
    const from = this.#exports.minitx_message(error) >>> 0;
    throw new ModelError(decoder.decode(this.bytes.subarray(from, this.bytes.indexOf(0, from))), error);
  }

  #view() {
    return new DataView(this.#exports.memory.buffer, this.arguments, AT.end);
  }

  /* Writes a structure; the words of `fields` come from `values`, all others are 0. */
  #structure(at, fields, values) {
    this.bytes.fill(0, this.arguments + at, this.arguments + at + 256);
    for (const [field, word] of Object.entries(fields)) this.#view().setInt32(at + 4 * word, values[field] ?? 0, true);
    return this.arguments + at;
  }

  #options(options) {
    const at = this.#structure(AT.options, OPTIONS, options);
    if (options.onPiece) this.#view().setInt32(AT.options + 4 * PIECE, this.#piece, true);
    return at;
  }

  /* Reads the weight file to its place, no more than it says that it has; gives its size. */
  async read(source, onProgress, signal) {
    let size = 0;
    let expected = 0;
    for await (const part of chunks(source, signal)) {
      signal?.throwIfAborted();
      this.reserve(this.weights + size + part.length);
      this.bytes.set(part, this.weights + size);
      size += part.length;
      if (size < HEAD.size) continue;
      if (!expected) {
        expected = this.#expected();
        this.reserve(this.weights + Math.min(expected, MOST));
      }
      onProgress?.(size, expected);
      if (size > expected) break; /* what it is worth, opening it will tell */
    }
    return size;
  }

  #expected() {
    const head = new DataView(this.#exports.memory.buffer, this.weights, HEAD.size);
    const magic = String.fromCharCode(...this.bytes.subarray(this.weights, this.weights + HEAD.magic.length));
    return magic === HEAD.magic ? Number(head.getBigUint64(HEAD.bytes, true)) : 0;
  }

  /* Opens the model over weights of so many bytes. */
  open(size, limits) {
    const given = this.#structure(AT.limits, LIMITS, limits);
    const needed = this.arguments + AT.needed;
    this.check(this.#exports.minitx_workspace(this.weights, size, given, needed));
    const bytes = this.#needed();
    const workspace = aligned(this.weights + size);
    this.reserve(workspace + bytes);
    const to = this.arguments + AT.model;
    this.check(this.#exports.minitx_open_in(to, this.weights, size, given, workspace, bytes));
    this.#model = this.#view().getUint32(AT.model, true);
    this.room = aligned(workspace + bytes);
  }

  #needed() {
    return this.#view().getUint32(AT.needed, true);
  }

  /* Puts bytes in the room and calls a function of the C interface with room for `count` things of `size` bytes behind
   * them, again with more where it was too small. `call` is given places; gives what was written. */
  #fit(input, count, size, call) {
    for (let first = true; ; first = false) {
      const out = aligned(this.room + input.length);
      this.reserve(out + count * size);
      this.bytes.set(input, this.room);
      const error = call(this.room, out, count, this.arguments + AT.needed);
      const needed = this.#needed();
      if (!error) return this.bytes.slice(out, out + needed * size);
      if (error !== ERRORS.OUTPUT || !first) this.check(error);
      count = needed;
    }
  }

  /* The translation of one line. `piece`, if it is given, is told each piece of it; anything but 0 stops. */
  translate(line, options, piece) {
    const input = encoder.encode(line);
    let told = 0; /* bytes; where the room was too small all are told again */
    const call = (text, out, count, needed) => {
      let again = 0;
      this.#told = (from, bytes) => {
        again += bytes;
        if (again <= told) return 0;
        told = again;
        return piece(decoder.decode(this.bytes.subarray(from, from + bytes)));
      };
      const given = this.#options({ ...options, onPiece: piece });
      return this.#exports.minitx_translate(this.#model, text, input.length, given, out, count, needed);
    };
    return decoder.decode(this.#fit(input, 4 * input.length + SPARE, 1, call).subarray(0, -1));
  }

  /* The best hypothesis of source tokens, and its score. */
  generate(ids, options) {
    const score = this.arguments + AT.score;
    const call = (source, out, count, needed) => {
      const given = this.#options(options);
      return this.#exports.minitx_generate(this.#model, source, ids.length, given, out, count, needed, score);
    };
    const found = this.#fit(new Uint8Array(ids.buffer), MODEL_LONGEST, 4, call);
    return { ids: [...new Int32Array(found.buffer)], score: this.#view().getFloat64(AT.score, true) };
  }

  /* The same while the model runs elsewhere: `begin` gives the first turn, `advance` the one after a turn's ids and
   * scores; of what is in a turn, see the C interface. */
  begin(ids, options) {
    this.reserve(this.room + 4 * ids.length);
    this.bytes.set(new Uint8Array(ids.buffer), this.room);
    const given = this.#options({ ...options, onPiece: undefined });
    const turn = this.arguments + AT.turn;
    this.check(this.#exports.minitx_begin(this.#model, this.room, ids.length, given, turn));
    return this.#turn();
  }

  #turn() {
    const { buffer } = this.#exports.memory;
    const turn = Object.fromEntries(TURN.map((field, i) => [field, this.#view().getUint32(AT.turn + 4 * i, true)]));
    const list = (place) => new Int32Array(buffer, place, turn.rows).slice();
    const allowed = turn.allowed ? new Uint16Array(buffer, turn.allowed, Math.ceil(MODEL_VOCABULARY / 16)).slice() : null;
    return { ...turn, tokens: list(turn.tokens), before: list(turn.before), allowed };
  }

  advance(ids, scores) {
    const { buffer } = this.#exports.memory;
    const { ids: to, scores: and } = this.#turn();
    new Int32Array(buffer, to, ids.length).set(ids);
    new Float32Array(buffer, and, scores.length).set(scores);
    this.check(this.#exports.minitx_advance(this.#model, this.arguments + AT.turn));
    return this.#turn();
  }

  result() {
    const score = this.arguments + AT.score;
    const call = (_, out, count, needed) => this.#exports.minitx_result(this.#model, out, count, needed, score);
    const found = this.#fit(new Uint8Array(), MODEL_LONGEST, 4, call);
    return { ids: [...new Int32Array(found.buffer)], score: this.#view().getFloat64(AT.score, true) };
  }

  stop() {
    this.check(ERRORS.STOPPED);
  }

  encode(line) {
    const input = encoder.encode(line);
    const call = (text, out, count, needed) =>
      this.#exports.minitx_encode(this.#model, text, input.length, out, count, needed);
    return [...new Int32Array(this.#fit(input, MODEL_LONGEST, 4, call).buffer)];
  }

  decode(ids) {
    const call = (from, out, count, needed) =>
      this.#exports.minitx_decode(this.#model, from, ids.length, out, count, needed);
    return decoder.decode(this.#fit(new Uint8Array(ids.buffer), 16 * ids.length + SPARE, 1, call).subarray(0, -1));
  }
}

/* ---- what users hold ---- */

function numbers(given, fields, what) {
  for (const field of Object.keys(fields)) {
    const value = given[field] ?? 0;
    if (Number.isInteger(value) && value >= 0 && value < 2 ** 31) continue;
    throw new TypeError(`${what}${field} must be a whole number from 0, not ${String(value)}`);
  }
}

function tokens(ids) {
  const list = [...ids];
  const wrong = list.find((id) => !Number.isInteger(id) || Math.abs(id) >= 2 ** 31);
  if (wrong !== undefined) throw new TypeError(`a token must be a whole number, not ${String(wrong)}`);
  return Int32Array.from(list);
}

function string(text) {
  if (typeof text !== "string") throw new TypeError(`a text must be a string, not ${typeof text}`);
}

const LONGEST_TURN = 16; /* milliseconds until others may have one */
const othersTurn = () => new Promise((resume) => setTimeout(resume));

/** An open model. Calls wait for each other. */
export class Model {
  #runner; /* a Wasm, or what stands for one */
  #wasm;
  #size;
  #last = Promise.resolve();

  constructor(runner, wasm, size) {
    this.#runner = runner;
    this.#wasm = wasm;
    this.#size = size;
  }

  /** What runs the model now, and why. */
  get backend() {
    return this.#runner.backend;
  }

  get reason() {
    return this.#runner.reason;
  }

  /** The weight file, where it lies in the model's memory. */
  get weights() {
    return this.#wasm.bytes.subarray(this.#wasm.weights, this.#wasm.weights + this.#size);
  }

  #afterOthers(work) {
    const done = this.#last.then(work);
    this.#last = done.catch(() => {});
    return done;
  }

  async translate(text, options = {}) {
    string(text);
    numbers(options, OPTIONS, "");
    return this.#afterOthers(() => this.#translate(text.split("\n"), options));
  }

  async #translate(lines, { onPiece, signal, ...options }) {
    const done = [];
    let began = performance.now();
    let failed;
    const piece = onPiece && ((text) => {
      try {
        onPiece(text);
        return signal?.aborted ? 1 : 0;
      } catch (error) {
        failed = { error };
        return 1;
      }
    });
    for (const [i, line] of lines.entries()) {
      if (performance.now() - began > LONGEST_TURN) {
        await othersTurn();
        began = performance.now();
      }
      signal?.throwIfAborted();
      if (i) onPiece?.("\n");
      try {
        done.push(await this.#runner.translate(line, options, piece));
      } catch (error) {
        if (error.code !== ERRORS.STOPPED) throw error;
        throw failed ? failed.error : signal.reason;
      }
    }
    return done.join("\n");
  }

  async generate(ids, options = {}) {
    numbers(options, OPTIONS, "");
    const source = tokens(ids);
    return this.#afterOthers(() => this.#runner.generate(source, { ...options, onPiece: undefined }));
  }

  async encode(text) {
    string(text);
    return this.#afterOthers(() => this.#runner.encode(text));
  }

  async decode(ids) {
    const target = tokens(ids);
    return this.#afterOthers(() => this.#runner.decode(target));
  }
}

/** Opens the model; see MODEL_NAME.d.ts. */
export async function load({ backend, weights = WEIGHTS, limits = {}, onProgress, signal } = {}) {
  numbers(limits, LIMITS, "limits.");
  const chosen = choose(backend);
  const wasm = await Wasm.compile(BACKENDS[chosen].code, signal);
  const size = await wasm.read(weights, onProgress, signal);
  wasm.open(size, limits);
  Object.assign(wasm, { backend: chosen, reason: "" });
  if (!GPU || (backend && backend !== "auto" && backend !== "webgpu")) return new Model(wasm, wasm, size);
  const { Accelerated } = await GPU.code();
  const plan = JSON.parse(await new Blob([await whole(GPU.plan, signal)]).text());
  const runner = await Accelerated.open(wasm, size, plan, limits);
  if (backend === "webgpu" && runner.backend !== backend) throw new Error(`webgpu does not run here: ${runner.reason}`);
  return new Model(runner, wasm, size);
}
