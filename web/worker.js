/* The model, off the page's own thread: opens a graph in ONNX Runtime Web and scores recordings.
 *
 * Messages are { id, type, … }; each is answered by { id, result } or { id, error }. The runtime is a file of this
 * page: nothing is fetched from elsewhere, which the page's Content-Security-Policy would not allow either.
 */

import { decodeWav, isWav } from "./audio/wav.js";
import { prepare, toMono, windowSpans } from "./audio/prepare.js";
import { ResampleStream } from "./audio/resample.js";
import { EventStream } from "./events.js";
import { burstScore, scoresOf, tasksOf } from "./scores.js";

const RUNTIMES = {
  wasm: { module: "ort.wasm.bundle.min.mjs", wasm: "ort-wasm-simd-threaded.wasm" },
  webgpu: { module: "ort.webgpu.bundle.min.mjs", wasm: "ort-wasm-simd-threaded.asyncify.wasm" },
};
const MOST_THREADS = 4; // as many as these small models gain from
const PIECE_SECONDS = 30; // that go through the detector at once

let ort = null; // of the provider that was loaded first: two runtimes in one worker would share their settings
let model = null;
let detector = null; // { session, rule }
let ear = null; // of live listening: { resampler, events, origin in seconds }

/** Opens { graph, config, preprocessor, calibration } with the provider "wasm" or "webgpu". */
async function open({ provider, graph, config, preprocessor, calibration }) {
  ort ??= await loadRuntime(provider);
  const session = await ort.InferenceSession.create(new Uint8Array(graph), {
    executionProviders: [provider],
    logSeverityLevel: 3,
  });
  const opened = { session, tasks: tasksOf(config, calibration), preprocessor, check: calibration?.burst ?? null };
  await run(opened, new Float32Array(1600)); // a graph that cannot run says so now, not with the first clip
  await model?.session.release();
  model = opened;
  return { threads: ort.env.wasm.numThreads };
}

/** Opens a detector, { graph, rule }: it is small, and always the processor's. */
async function openDetector({ provider, graph, rule }) {
  ort ??= await loadRuntime(provider);
  const session = await ort.InferenceSession.create(new Uint8Array(graph), {
    executionProviders: ["wasm"],
    logSeverityLevel: 3,
  });
  detector = { session, rule };
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

/** Scores a recording, { bytes } of a WAV or { rate, channels }, window by window; and its events, if asked for. */
async function score({ recording, windowSeconds, hopSeconds, maxSeconds, longestWhole, withEvents }) {
  const { preprocessor } = model;
  const started = performance.now();
  const rate = preprocessor.sampling_rate;
  const waveform = toMono(recording.bytes ? decodeWav(recording.bytes) : recording, rate, maxSeconds);
  const isWhole = waveform.length <= longestWhole * rate;
  const spans = windowSpans(waveform.length, rate, isWhole ? null : windowSeconds, hopSeconds);
  const prepared = performance.now();
  const heard = [];
  for (const [start, end] of spans) heard.push(await scoresOfPart(waveform.slice(start, end)));
  const scored = performance.now();
  const events = detector && withEvents ? await eventsOf(waveform) : null;
  return {
    rows: heard.map(({ scores }) => scores),
    bursts: heard.map(({ burst }) => burst),
    events,
    spans: spans.map((span) => span.map((sample) => sample / rate)),
    seconds: waveform.length / rate,
    milliseconds: {
      preparing: prepared - started,
      events: performance.now() - scored,
      all: performance.now() - started,
    },
  };
}

async function scoresOfPart(waveform) {
  const { tasks, preprocessor, check } = model;
  const logits = await run(model, prepare(waveform, preprocessor));
  return { scores: scoresOf(logits, tasks), burst: burstScore(logits, tasks, check) };
}

function makeEventStream() {
  const runDetector = async (waveform) => {
    const feeds = { input_values: new ort.Tensor("float32", waveform, [1, waveform.length]) };
    return (await detector.session.run(feeds)).logits.data;
  };
  return new EventStream(runDetector, detector.rule);
}

async function eventsOf(waveform) {
  const stream = makeEventStream();
  const step = PIECE_SECONDS * detector.rule.sampling_rate;
  const found = [];
  for (let start = 0; start < waveform.length; start += step) {
    found.push(...(await stream.push(waveform.subarray(start, start + step))));
  }
  return scoredEvents([...found, ...(await stream.finish())]);
}

/** [{ start, end } in seconds, detection, scores, burst }] */
async function scoredEvents(found, origin = 0) {
  const events = [];
  for (const { start, stop, probability, audio } of found) {
    const [from, to] = [start, stop].map((position) => origin + position / detector.rule.sampling_rate);
    events.push({ start: from, end: to, detection: probability, ...(await scoresOfPart(audio)) });
  }
  return events;
}

/** What the microphone heard since the last call, { rate, samples }, from `origin` seconds on: the events that are over.
 */
async function detect({ rate, samples, origin, isFirst, isLast }) {
  if (!detector || !model) return [];
  if (isFirst || !ear) {
    ear = { resampler: new ResampleStream(rate, detector.rule.sampling_rate), events: makeEventStream(), origin };
  }
  const found = await ear.events.push(ear.resampler.push(samples));
  if (isLast) found.push(...(await ear.events.finish()));
  const events = await scoredEvents(found, ear.origin);
  if (isLast) ear = null;
  return events;
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
      const result = await { open, openDetector, score, detect }[data.type](data);
      self.postMessage({ id: data.id, result });
    } catch (error) {
      self.postMessage({ id: data.id, error: String(error?.message ?? error) });
    }
  });
});
