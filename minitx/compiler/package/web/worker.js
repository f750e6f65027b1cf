/* Runs the model beside the page. It is told {open: {backend}}, {translate: id, text, beam} and {stop: id}, and tells
 * {progress: [bytes, of]}, {ready: backend}, {kept: whether}, and of a translation {piece, id, at}, then {done: id, at}
 * or {failed: id, why}, and {used: backend}; `at` is milliseconds since it began. {failed} without an id: there is no model.
 *
 * Weights are kept in the browser's cache once a model was opened over them, so what is kept is whole. Its name has
 * their checksum; what an older export left, offline.js throws away.
 */
import { load } from "./MODEL_NAME.js";

const CACHE = `${new URL("./", import.meta.url).href}#MODEL_CHECKSUM`;
const WEIGHTS = new URL("./MODEL_NAME.weights?MODEL_CHECKSUM", import.meta.url).href;
const stops = new Map(); /* of translations that are not done */
let model;

/* Does something with the cache, if the browser lets this page have one. */
async function cached(work) {
  try {
    return await work(await caches.open(CACHE));
  } catch {
    return undefined;
  }
}

/* What runs a model, and why. */
const used = ({ backend, reason }) => (reason ? `${backend} (${reason})` : backend);

async function open({ backend }) {
  const options = { backend, onProgress: (...progress) => postMessage({ progress }) };
  const kept = await cached((cache) => cache.match(WEIGHTS));
  const opened = kept && (await load({ ...options, weights: kept }).catch(() => undefined));
  const loaded = opened ?? (await load({ ...options, weights: WEIGHTS }));
  postMessage({ ready: used(loaded) });
  const keep = (cache) => cache.put(WEIGHTS, new Response(loaded.weights)).then(() => true);
  postMessage({ kept: opened ? true : Boolean(await cached(keep)) });
  return loaded;
}

async function translate({ translate: id, text, beam }) {
  const stop = new AbortController();
  stops.set(id, stop);
  const opened = await model;
  const began = performance.now();
  const at = () => performance.now() - began;
  const onPiece = (piece) => postMessage({ piece, id, at: at() });
  try {
    await opened.translate(text, { beam, onPiece, signal: stop.signal });
    postMessage({ done: id, at: at() });
  } catch (error) {
    postMessage({ failed: id, why: error.name === "AbortError" ? "Stopped." : error.message });
  }
  postMessage({ used: used(opened) });
  stops.delete(id);
}

onmessage = ({ data }) => {
  if (data.open) {
    model = open(data.open);
    model.catch((error) => postMessage({ failed: undefined, why: error.message }));
  } else if (data.stop !== undefined) stops.get(data.stop)?.abort();
  else translate(data);
};
