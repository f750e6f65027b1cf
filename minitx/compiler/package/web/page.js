/* The page: what is typed goes to worker.js, and what that tells is shown. */
const at = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
let current = 0; /* the translation that is shown */
let times = []; /* of its pieces: milliseconds since it began */

function busy(is) {
  at.output.setAttribute("aria-busy", String(is));
  at.stop.disabled = !is;
  at.copy.disabled = is || !at.output.textContent;
}

function fail(why) {
  at.error.textContent = why;
  at.error.hidden = false;
}

function translate() {
  if (at.go.disabled) return;
  worker.postMessage({ stop: current++ });
  times = [];
  at.output.textContent = "";
  at.times.replaceChildren();
  at.details.hidden = at.error.hidden = true;
  at.speed.textContent = "Translating …";
  busy(true);
  worker.postMessage({ translate: current, text: at.text.value, beam: Number(at.beam.value) });
}

function row(piece, milliseconds) {
  const tr = document.createElement("tr");
  for (const text of [piece, milliseconds.toFixed(1)]) tr.insertCell().textContent = text;
  return tr;
}

function show(piece, milliseconds) {
  at.output.append(piece);
  if (piece === "\n") return;
  at.times.append(row(piece, milliseconds - (times.at(-1) ?? 0)));
  times.push(milliseconds);
}

function summary(total) {
  if (at.beam.value !== "1" || times.length < 2) return `${total.toFixed(0)} ms.`;
  const each = (times.at(-1) - times[0]) / (times.length - 1);
  return `${times.length} pieces in ${total.toFixed(0)} ms: the first after ${times[0].toFixed(0)} ms, then ${each.toFixed(1)} ms each.`;
}

const HEARD = {
  progress([bytes, total]) {
    at.stage.textContent = `Loading the weights: ${megabytes(bytes)} of ${megabytes(total)} MB`;
    at.progress.hidden = false;
    at.progress.value = bytes / total;
  },
  ready(backend) {
    at.loading.hidden = true;
    at.go.disabled = false;
    HEARD.used(backend);
    at.speed.textContent = "Ready.";
  },
  used(backend) {
    at.backend.textContent = backend;
  },
  kept(is) {
    at.kept.textContent = is ? "The weights are kept here for the next time." : "This browser does not keep the weights.";
  },
  piece(piece, { id, at: milliseconds }) {
    if (id === current) show(piece, milliseconds);
  },
  done(id, { at: total }) {
    if (id !== current) return;
    at.speed.textContent = summary(total);
    at.details.hidden = times.length === 0;
    busy(false);
  },
  failed(id, { why }) {
    if (id !== undefined && id !== current) return;
    if (id === undefined) at.stage.textContent = "The model could not be loaded.";
    at.speed.textContent = "";
    fail(why);
    busy(false);
  },
};

worker.onmessage = ({ data }) => {
  for (const [what, told] of Object.entries(HEARD)) if (what in data) told(data[what], data);
};
worker.onerror = (event) => HEARD.failed(undefined, { why: event.message || "worker.js could not be loaded" });

at.form.addEventListener("submit", (event) => {
  event.preventDefault();
  translate();
});
at.text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) translate();
});
at.stop.addEventListener("click", () => worker.postMessage({ stop: current }));
at.copy.addEventListener("click", async () => {
  await navigator.clipboard?.writeText(at.output.textContent);
  at.speed.textContent = "Copied.";
});

at.stage.textContent = "Loading …";
worker.postMessage({ open: { backend: new URLSearchParams(location.search).get("backend") ?? undefined } });
navigator.serviceWorker?.register(new URL("./offline.js", import.meta.url)).catch(() => {}); /* it works without, online */
