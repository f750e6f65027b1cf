/* The model on a GPU, tokenizer and search in WebAssembly: has what Model asks of Wasm, and gives what that gives.
 *
 * What goes wrong on the GPU, at the start or later, is told in `reason`; from then on WebAssembly does all.
 */

import { Gpu } from "./MODEL_NAME.gpu.js";

const TEST = "1, 2, 3: a test."; /* what both are to translate alike before the GPU is trusted */
const TESTS = [{ beam: 1, maxLength: 8 }, { beam: 0, maxLength: 4 }];
const HEAD = { fingerprint: 24, weights: 40, bytes: 48 }; /* of a weight file */

export class Accelerated {
  #gpu;

  constructor(wasm, plan) {
    this.wasm = wasm;
    this.plan = plan;
    this.backend = wasm.backend;
    this.reason = "";
  }

  /* Over an open Wasm, whose weight file has so many bytes, opened for these limits, and a plan for GPUs. Whether the GPU is used, `backend` and `reason` say. */
  static async open(wasm, size, plan, limits) {
    const made = new Accelerated(wasm, plan);
    try {
      made.#gpu = await Gpu.open(plan, weights(wasm.bytes.subarray(wasm.weights, wasm.weights + size), plan));
      if (!made.#gpu) made.reason = "there is no WebGPU adapter";
      else if (await made.#test(limits)) made.#use();
      else made.#leave("this GPU or its driver computes something else");
    } catch (error) {
      made.#leave(error.message);
    }
    return made;
  }

  #use() {
    this.backend = "webgpu";
    this.reason = `on ${this.#gpu.name}`;
  }

  #leave(reason) {
    this.#gpu?.close();
    this.#gpu = null;
    this.backend = this.wasm.backend;
    this.reason = reason;
  }

  /* Whether both find the same tokens. */
  async #test({ source, beam: most }) {
    const ids = Int32Array.from(this.wasm.encode(TEST).slice(-source || 0));
    const beam = Math.min(most || this.plan.beam, this.plan.beam);
    for (const test of TESTS) {
      const options = { ...test, beam: test.beam || beam };
      const found = await this.#search(ids, options, () => {});
      const expected = this.wasm.generate(ids, options);
      if (found.ids.join() !== expected.ids.join()) return false;
    }
    return true;
  }

  /* The best hypothesis, by the GPU, or null where it has no room for such a beam; greedy search tells `token` of all
   * tokens so far. */
  async #search(ids, options, token) {
    const { wasm, plan } = this;
    const found = [];
    let turn = wasm.begin(ids, options);
    if (turn.rows > plan.beam) return null;
    if (turn.rows) this.#gpu.encode(ids, turn.allowed && marked(turn.allowed));
    for (let rows = turn.rows; turn.rows; ) {
      const made = await this.#onGpu(turn, rows === 1 ? 1 : plan.beam);
      turn = wasm.advance(made.ids, made.scores);
      if (rows === 1 && turn.rows) {
        found.push(turn.tokens[0]);
        token(found);
      }
    }
    return wasm.result();
  }

  /* What a turn asks for, computed for the rows that the plan has: those that are not wanted stand behind. */
  async #onGpu({ rows, top, position, tokens, before }, most) {
    const padded = (list) => Array.from({ length: most }, (_, row) => (row < rows ? list[row] : 0));
    const given = await this.#gpu.step(padded(tokens), position, most > 1 ? padded(before) : null);
    const width = given.ids.length / most;
    const wanted = (list) => Array.from({ length: rows * top }, (_, i) => list[Math.floor(i / top) * width + (i % top)]);
    const scores = wanted(given.scores).map((score) => (score < this.plan.forbidden / 2 ? -Infinity : score));
    if (scores.some(Number.isNaN)) throw new Error("it gives no numbers");
    return { ids: wanted(given.ids), scores };
  }

  /* Does something on the GPU, or, where that fails or gives nothing, by WebAssembly. */
  async #either(onGpu, onWasm) {
    if (!this.#gpu) return onWasm();
    try {
      return (await onGpu()) ?? onWasm();
    } catch (error) {
      if (error.name === "ModelError") throw error; /* not the GPU's fault */
      this.#leave(`the GPU failed: ${error.message}`);
      return onWasm();
    }
  }

  async generate(ids, options) {
    return this.#either(() => this.#search(ids, options, () => {}), () => this.wasm.generate(ids, options));
  }

  async translate(line, options, piece) {
    if (!this.#gpu) return this.wasm.translate(line, options, piece);
    let shown = 0;
    const show = (text) => {
      if (!piece || text.length <= shown) return;
      const fresh = text.slice(shown);
      shown = text.length;
      if (piece(fresh)) this.wasm.stop();
    };
    const token = (found) => {
      const text = piece ? this.wasm.decode(Int32Array.from(found)) : "";
      if (!text.endsWith("\uFFFD")) show(text); /* which may be half a character */
    };
    const source = Int32Array.from(this.wasm.encode(line));
    const onGpu = async () => {
      const best = await this.#search(source, options, token);
      return best && this.wasm.decode(Int32Array.from(best.ids));
    };
    const text = await this.#either(onGpu, () => this.wasm.translate(line, options));
    show(text);
    return text;
  }

  encode(line) {
    return this.wasm.encode(line);
  }

  decode(ids) {
    return this.wasm.decode(ids);
  }
}

/* The weights in a weight file, which has to be the plan's. */
function weights(file, plan) {
  const head = new DataView(file.buffer, file.byteOffset);
  if (head.getBigUint64(HEAD.fingerprint, true).toString(16).padStart(16, "0") !== plan.fingerprint) {
    throw new Error("the weight file is not of the model that MODEL_NAME.gpu.json is for");
  }
  const [offset, bytes] = [HEAD.weights, HEAD.bytes].map((at) => Number(head.getBigUint64(at, true)));
  return file.subarray(offset, offset + bytes);
}

/* The numbers of the bits that are set, 16 in each. */
function marked(bits) {
  const numbers = [];
  bits.forEach((word, i) => {
    for (let bit = 0; word >> bit; bit++) if ((word >> bit) & 1) numbers.push(16 * i + bit);
  });
  return numbers;
}
