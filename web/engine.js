/* The page's side of worker.js: calls that return promises, and which provider there is. */

export class Engine {
  #worker = null;
  #provider = null;
  #waiting = new Map();
  #last = 0;
  #detector = null; // the files of it, which every new worker gets

  /** Has every worker find events: { graph, rule }, null for none. */
  useDetector(files) {
    this.#detector = files;
  }

  /** Opens a model's files: `open` of worker.js. A worker has one runtime, so another provider gets another worker. */
  async open(provider, files) {
    if (this.#provider !== provider) {
      this.#worker?.terminate();
      for (const { reject } of this.#waiting.values()) reject(new Error("stopped: another model was selected"));
      this.#waiting.clear();
      this.#worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
      this.#worker.addEventListener("message", ({ data }) => this.#answer(data));
      this.#worker.addEventListener("error", (event) => this.#fail(event.message || "its script cannot be loaded"));
      this.#provider = provider;
      if (this.#detector) await this.#call({ type: "openDetector", provider, ...this.#detector }, []);
    }
    return this.#call({ type: "open", provider, ...files }, [files.graph]);
  }

  /** See `score` of worker.js. */
  score(request) {
    const { bytes, channels } = request.recording;
    return this.#call({ type: "score", ...request }, bytes ? [bytes] : channels.map((channel) => channel.buffer));
  }

  /** See `detect` of worker.js. */
  detect(request) {
    return this.#call({ type: "detect", ...request }, [request.samples.buffer]);
  }

  #call(message, transferred) {
    const id = ++this.#last;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, ...message }, transferred);
    });
  }

  #answer({ id, result, error }) {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (error === undefined) waiting?.resolve(result);
    else waiting?.reject(new Error(error));
  }

  #fail(reason) {
    for (const { reject } of this.#waiting.values()) reject(new Error(`the worker stopped (${reason})`));
    this.#waiting.clear();
  }
}

/** What this browser computes by WebGPU with: "card", "software", which is slower than WebAssembly, or null. */
export async function webGpuAdapter() {
  try {
    const adapter = await navigator.gpu?.requestAdapter();
    return adapter ? (adapter.info?.isFallbackAdapter ? "software" : "card") : null;
  } catch {
    return null;
  }
}
