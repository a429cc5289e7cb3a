/* A decoded recording → what the model hears: mono, 16 kHz, quiet ends cut, levelled, normalised; as in Python.
 *
 * `audio_avb.load_audio` and `VocalBurstFeatureExtractor` are restated here; tests/test_web_audio.py compares them.
 */

import { resample } from "./resample.js";

const FRAME = 2048, HOP = 512; // of librosa.effects.trim
const LEAST_POWER = 1e-10; // of librosa.amplitude_to_db
const SHORTEST_RATE = 1000, HIGHEST_RATE = 384000; // Hz

/** Channels of one length at `rate` Hz → one at `target` Hz. Throws an Error where that cannot be. */
export function toMono({ rate, channels }, target, maxSeconds) {
  if (!(rate >= SHORTEST_RATE && rate <= HIGHEST_RATE)) {
    throw new Error(`invalid sampling rate ${rate} Hz: it must be 1,000 to 384,000 Hz`);
  }
  const length = channels.length ? channels[0].length : 0;
  if (!length) throw new Error("contains no samples (0 seconds); record it again");
  if (length > maxSeconds * rate) throw new Error(`longer than ${maxSeconds} seconds; cut it into bursts`);
  const mono = new Float32Array(length);
  for (let index = 0; index < length; index++) {
    let sum = 0;
    for (const channel of channels) sum += channel[index];
    mono[index] = sum / channels.length;
    if (!Number.isFinite(mono[index])) throw new Error(`sample ${index} is NaN or infinite; export it again`);
  }
  return resample(mono, rate, target);
}

/** A waveform at the model's rate → its input, by the settings of preprocessor_config.json. */
export function prepare(waveform, settings) {
  if (settings.trim_top_db != null) waveform = trim(waveform, settings.trim_top_db);
  if (settings.peak_db != null) waveform = setPeak(waveform, settings.peak_db);
  return settings.do_normalize ? normalise(waveform) : waveform;
}

/** librosa.effects.trim: cuts from both ends what lies `topDb` below the loudest frame. */
export function trim(waveform, topDb) {
  const frames = 1 + Math.floor(waveform.length / HOP);
  const power = new Float64Array(frames); // of frames centred on their place, silence around the clip
  for (let frame = 0; frame < frames; frame++) {
    const start = frame * HOP - FRAME / 2;
    let sum = 0;
    for (let index = Math.max(0, start); index < Math.min(waveform.length, start + FRAME); index++) {
      sum += waveform[index] * waveform[index];
    }
    power[frame] = Math.max(LEAST_POWER, sum / FRAME);
  }
  const loudest = power.reduce((one, other) => Math.max(one, other));
  const isLoud = (value) => 10 * Math.log10(value / loudest) > -topDb;
  const first = power.findIndex(isLoud);
  let last = frames - 1;
  while (!isLoud(power[last])) last--;
  return waveform.slice(first * HOP, Math.min(waveform.length, (last + 1) * HOP));
}

/** Scales the highest absolute sample to `peakDb` dBFS; zeros stay zeros. */
export function setPeak(waveform, peakDb) {
  let peak = 0;
  for (const sample of waveform) peak = Math.max(peak, Math.abs(sample));
  const level = Math.fround(10 ** (peakDb / 20));
  return peak > 0 ? waveform.map((sample) => (sample / peak) * level) : waveform;
}

/** Zero mean and unit variance, as Wav2Vec2FeatureExtractor has it. */
function normalise(waveform) {
  let sum = 0;
  for (const sample of waveform) sum += sample;
  const mean = sum / waveform.length;
  let squares = 0;
  for (const sample of waveform) squares += (sample - mean) ** 2;
  const scale = 1 / Math.sqrt(squares / waveform.length + 1e-7);
  return waveform.map((sample) => (sample - mean) * scale);
}

/** First and past-the-last sample of each window, as `pipeline_avb.window_spans`; `windowSeconds` null is one span. */
export function windowSpans(samples, rate, windowSeconds, hopSeconds) {
  const window = windowSeconds == null ? samples : Math.max(1, Math.round(windowSeconds * rate));
  if (samples <= window) return [[0, samples]];
  const hop = Math.max(1, Math.round(hopSeconds * rate));
  const spans = [];
  for (let start = 0; start + window <= samples; start += hop) spans.push([start, start + window]);
  if (spans.at(-1)[1] < samples) spans.push([samples - window, samples]);
  return spans;
}
