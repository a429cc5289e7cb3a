/* One channel at any rate → the same at another, as soxr's HQ does it: a windowed sinc, linear in phase.
 *
 * The filter is soxr's: half way between pass band (.9136 of the lower Nyquist frequency) and stop band (1), a Kaiser
 * window. Its length and shape were fitted to the impulse responses of libsoxr 0.1.3, which takes several stages: they
 * agree to 1e-7 for rates such as 8, 24, 32 and 48 kHz, and to 1.4e-4 of the peak for 44.1 kHz and its relatives.
 * Unlike the browser's own resamplers it is the same everywhere. tests/test_web_audio.py compares it with soxr.
 */

const CUTOFF = 0.95687; // of the lower Nyquist frequency, -6 dB
const SIMPLE = { beta: 13.04, reach: 97 }; // of the Kaiser window; samples at the lower rate to each side
const STEEP = { beta: 13.9, reach: 103 };
const COMMON_PHASES = { beta: 15.98, reach: 109.7 }; // 44.1 kHz
const MOST_PHASES = 1024; // with their own coefficients; more are read from a table
const TABLE_STEPS = 2048; // per input sample

/** Resamples float samples; the result has ceil(samples · to / from) of them, as librosa and soxr have it. */
export function resample(samples, from, to) {
  if (from === to) return samples;
  const { at } = makeResampler(from, to);
  const output = new Float32Array(Math.ceil((samples.length * to) / from));
  const heard = Math.round((samples.length * to) / from); // soxr gives as many; the place behind stays silent
  for (let index = 0; index < heard; index++) output[index] = at(index, samples, 0);
  return output;
}

/** `resample` of what never ends, block by block: the same samples, some 10 ms late. */
export class ResampleStream {
  #resampler;
  #buffer = new Float32Array(0);
  #begin = 0; // position of the buffer's first sample
  #next = 0; // place of the next sample of the output

  constructor(from, to) {
    this.#resampler = from === to ? null : makeResampler(from, to);
  }

  push(samples) {
    if (!this.#resampler) return samples;
    const { startOf, taps, at } = this.#resampler;
    const both = new Float32Array(this.#buffer.length + samples.length);
    both.set(this.#buffer);
    both.set(samples, this.#buffer.length);
    const output = [];
    for (; startOf(this.#next) + taps <= this.#begin + both.length; this.#next++) {
      output.push(at(this.#next, both, this.#begin));
    }
    const keep = Math.max(this.#begin, startOf(this.#next));
    this.#buffer = both.slice(keep - this.#begin);
    this.#begin = keep;
    return Float32Array.from(output);
  }
}

/** → { startOf, taps, at }: which input samples a sample of the output is made of, how many, and its value. */
function makeResampler(from, to) {
  const divisor = gcd(from, to);
  const up = to / divisor; // phases: a step of the output is down / up samples of the input
  const down = from / divisor;
  const shape = up > 4 ? COMMON_PHASES : down > 3 ? STEEP : SIMPLE;
  const kernel = makeKernel(Math.min(1, to / from), shape);
  const taps = 2 * kernel.reach;
  const coefficients = up <= MOST_PHASES ? phaseTable(kernel, up) : interpolated(kernel);
  const startOf = (index) => Math.floor((index * down) / up) - kernel.reach + 1;
  const at = (index, samples, begin) => {
    const start = startOf(index) - begin;
    const row = coefficients((index * down) % up, up);
    const end = Math.min(taps, samples.length - start); // silence around the clip
    let sum = 0;
    for (let tap = Math.max(0, -start); tap < end; tap++) sum += samples[start + tap] * row[tap];
    return sum;
  };
  return { startOf, taps, at };
}

/** The filter of a bandwidth, a share of the input's Nyquist frequency: its value at a distance in input samples. */
function makeKernel(bandwidth, { beta, reach }) {
  const cutoff = bandwidth * CUTOFF;
  const end = reach / bandwidth; // of the window
  const scale = cutoff / bessel(beta);
  const at = (distance) => {
    const place = distance / end;
    if (place <= -1 || place >= 1) return 0;
    const angle = Math.PI * cutoff * distance;
    return (distance === 0 ? 1 : Math.sin(angle) / angle) * bessel(beta * Math.sqrt(1 - place * place)) * scale;
  };
  return { reach: Math.ceil(end), at };
}

function phaseTable(kernel, up) {
  const rows = new Array(up);
  return (phase) => {
    if (!rows[phase]) {
      const row = new Float64Array(2 * kernel.reach);
      for (let tap = 0; tap < row.length; tap++) row[tap] = kernel.at(tap - kernel.reach + 1 - phase / up);
      rows[phase] = row;
    }
    return rows[phase];
  };
}

/** For rates without a common divisor: the kernel in fine steps, and straight lines between them. */
function interpolated(kernel) {
  const table = new Float64Array(kernel.reach * TABLE_STEPS + 2);
  for (let step = 0; step < table.length; step++) table[step] = kernel.at(step / TABLE_STEPS);
  const row = new Float64Array(2 * kernel.reach);
  return (phase, up) => {
    for (let tap = 0; tap < row.length; tap++) {
      const place = Math.abs(tap - kernel.reach + 1 - phase / up) * TABLE_STEPS;
      const below = Math.floor(place);
      row[tap] = table[below] + (place - below) * (table[below + 1] - table[below]);
    }
    return row;
  };
}

/** The modified Bessel function of the first kind, order 0, by its series. */
function bessel(x) {
  const quarter = (x * x) / 4;
  let term = 1;
  let sum = 1;
  for (let k = 1; term > sum * 1e-17; k++) {
    term *= quarter / (k * k);
    sum += term;
  }
  return sum;
}

function gcd(a, b) {
  return b === 0 ? a : gcd(b, a % b);
}
