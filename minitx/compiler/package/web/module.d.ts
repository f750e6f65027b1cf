/** MODEL_TITLE, made by minitx MODEL_VERSION. */

/** The longest source and target of one sentence in tokens, and the most hypotheses of a beam; 0 or nothing stands for
 * the model's own. Smaller ones take less memory. */
export interface Limits {
  source?: number;
  target?: number;
  beam?: number;
}

/** `wasm-simd` is faster; `wasm` runs where there is no SIMD. */
export type Backend = MODEL_BACKENDS;

export interface LoadOptions {
  /** By default, or `auto`, the best that runs here. */
  backend?: Backend | "auto";
  /** By default MODEL_NAME.weights beside the module. */
  weights?: string | URL | Response | ArrayBuffer | ArrayBufferView;
  limits?: Limits;
  /** Is told how many bytes of the weights came, of how many. */
  onProgress?: (loaded: number, total: number) => void;
  signal?: AbortSignal;
}

export interface SearchOptions {
  /** Hypotheses that are kept at a time: 1 is greedy search; 0 or nothing stands for the model's own. */
  beam?: number;
  /** Tokens of a translation, at most. */
  maxLength?: number;
}

export interface TranslateOptions extends SearchOptions {
  /** Is told each piece of the translation as it is found by greedy search, of a beam each sentence. */
  onPiece?: (piece: string) => void;
  /** Is looked at between lines and after each piece. */
  signal?: AbortSignal;
}

/** What is wrong with a text, an option or the weights, and what to do. */
export class ModelError extends Error {
  /** As the C interface numbers them. */
  readonly code: number;
}

/** An open model. Calls wait for each other; models that were loaded apart from each other do not. */
export class Model {
  private constructor();
  /** What runs the model; a GPU that fails is left for what runs without one. */
  readonly backend: Backend;
  /** Of a package with kernels for a GPU: which GPU it is, or why it is not used. */
  readonly reason: string;
  /** The weight file where it lies in the model's memory, to be copied at once: any call may move it. */
  readonly weights: Uint8Array;
  /** Each line is translated on its own, and line ends stay. Half a surrogate pair is read as U+FFFD. */
  translate(text: string, options?: TranslateOptions): Promise<string>;
  /** From source tokens, the end included, to the best hypothesis, without the end. */
  generate(ids: Iterable<number>, options?: SearchOptions): Promise<{ ids: number[]; score: number }>;
  /** The source tokens of one sentence, the end included. */
  encode(text: string): Promise<number[]>;
  /** The text of target tokens. */
  decode(ids: Iterable<number>): Promise<string>;
}

export function load(options?: LoadOptions): Promise<Model>;
