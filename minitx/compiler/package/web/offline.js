/* A service worker: keeps the page's files, so that it opens without a network. With one, what the server has is taken.
 * The weights are put in the cache by worker.js, and from there they come before the server's. */
const FOLDER = new URL("./", self.location.href).href;
const CACHE = `${FOLDER}#MODEL_CHECKSUM`;
const FILES = ["", "page.css", "page.js", "worker.js", "MODEL_NAME.js", "MODEL_NAME.wasm", "MODEL_NAME.plain.wasm"MODEL_KEPT];
const WEIGHTS = `${FOLDER}MODEL_NAME.weights?MODEL_CHECKSUM`;

async function keepFiles() {
  const cache = await caches.open(CACHE);
  await cache.addAll(FILES.map((file) => new Request(FOLDER + file, { cache: "no-cache" })));
  await self.skipWaiting();
}

async function forgetOlder() {
  for (const name of await caches.keys()) if (name.startsWith(`${FOLDER}#`) && name !== CACHE) await caches.delete(name);
  await self.clients.claim();
}

/* Its address without what comes after a question mark, and without the name that servers add by themselves. */
const plain = (request) => request.url.replace(/(index\.html)?([?#].*)?$/, "");

async function answer(request) {
  const cache = await caches.open(CACHE);
  const place = plain(request);
  if (request.url === WEIGHTS) return (await cache.match(request)) ?? fetch(request);
  try {
    const response = await (request.mode === "navigate" ? fetch(request) : fetch(request.url, { cache: "no-cache" }));
    const copy = FILES.includes(place.slice(FOLDER.length)) && response.ok && response.clone();
    if (copy) cache.put(place, copy).catch(() => {}); /* there is no more room */
    return response;
  } catch (error) {
    return (await cache.match(place)) ?? Promise.reject(error);
  }
}

addEventListener("install", (event) => event.waitUntil(keepFiles()));
addEventListener("activate", (event) => event.waitUntil(forgetOlder()));
addEventListener("fetch", (event) => {
  if (event.request.method === "GET" && event.request.url.startsWith(FOLDER)) event.respondWith(answer(event.request));
});
