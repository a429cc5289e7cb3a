/* The model, off the page's own thread: opens a graph in ONNX Runtime Web and scores recordings.
 *
 * Messages are { id, type, … }; each is answered by { id, result } or { id, error }. The runtime is a file of this
 * page: nothing is fetched from elsewhere, which the page's Content-Security-Policy would not allow either.
 */

import { decodeWav, isWav } from "./audio/wav.js";
import { prepare, toMono, windowSpans } from "./audio/prepare.js";
import { scoresOf, tasksOf } from "./scores.js";

const RUNTIMES = {
  wasm: { module: "ort.wasm.bundle.min.mjs", wasm: "ort-wasm-simd-threaded.wasm" },
  webgpu: { module: "ort.webgpu.bundle.min.mjs", wasm: "ort-wasm-simd-threaded.asyncify.wasm" },
};
const MOST_THREADS = 4; // as many as these small models gain from

let ort = null; // of the provider that was loaded first: two runtimes in one worker would share their settings
let model = null;

/** Opens { graph, config, preprocessor, calibration } with the provider "wasm" or "webgpu". */
async function open({ provider, graph, config, preprocessor, calibration }) {
  ort ??= await loadRuntime(provider);
  const session = await ort.InferenceSession.create(new Uint8Array(graph), {
    executionProviders: [provider],
    logSeverityLevel: 3,
  });
  const opened = { session, tasks: tasksOf(config, calibration), preprocessor };
  await run(opened, new Float32Array(1600)); // a graph that cannot run says so now, not with the first clip
  await model?.session.release();
  model = opened;
  return { threads: ort.env.wasm.numThreads };
}

async function loadRuntime(provider) {
  const { module, wasm } = RUNTIMES[provider];
  const folder = new URL("./ort/", import.meta.url);
  const loaded = await import(new URL(module, folder).href);
  loaded.env.wasm.wasmPaths = { wasm: new URL(wasm, folder).href };
  // Threads need memory that is shared, which a page gets by two headers.
  loaded.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1;
  return loaded;
}

/** Scores a recording, { bytes } of a WAV or { rate, channels }, window by window. */
async function score({ recording, windowSeconds, hopSeconds, maxSeconds, longestWhole }) {
  const { tasks, preprocessor } = model;
  const started = performance.now();
  const rate = preprocessor.sampling_rate;
  const waveform = toMono(recording.bytes ? decodeWav(recording.bytes) : recording, rate, maxSeconds);
  const isWhole = waveform.length <= longestWhole * rate;
  const spans = windowSpans(waveform.length, rate, isWhole ? null : windowSeconds, hopSeconds);
  const prepared = performance.now();
  const rows = [];
  for (const [start, end] of spans) {
    const logits = await run(model, prepare(waveform.slice(start, end), preprocessor));
    rows.push(scoresOf(logits, tasks));
  }
  return {
    rows,
    spans: spans.map((span) => span.map((sample) => sample / rate)),
    seconds: waveform.length / rate,
    milliseconds: { preparing: prepared - started, all: performance.now() - started },
  };
}

async function run({ session }, waveform) {
  const shape = [1, waveform.length];
  const feeds = {
    input_values: new ort.Tensor("float32", waveform, shape),
    attention_mask: new ort.Tensor("int64", new BigInt64Array(waveform.length).fill(1n), shape),
  };
  const { logits } = await session.run(feeds);
  return logits.getData ? await logits.getData() : logits.data;
}

let queue = Promise.resolve(); // one message at a time: a session holds one clip

self.addEventListener("message", ({ data }) => {
  queue = queue.then(async () => {
    try {
      const result = await { open, score }[data.type](data);
      self.postMessage({ id: data.id, result });
    } catch (error) {
      self.postMessage({ id: data.id, error: String(error?.message ?? error) });
    }
  });
});
