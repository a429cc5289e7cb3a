/* A detector's answers → events, as avb/events/detection.py has it, whose names these are.
 *
 * The rule's numbers are not here: events.json comes with the detector. Positions are samples since the start.
 */

const sigmoid = (logit) => 1 / (1 + Math.exp(-logit));

const median = (values) => {
  const sorted = values.sort((one, other) => one - other);
  const middle = sorted.length / 2;
  return (sorted[Math.ceil(middle) - 1] + sorted[Math.floor(middle)]) / 2;
};

/** Probabilities of a stream's frames: a frame hears a bounded stretch, so pieces that overlap give the whole's. */
class FrameStream {
  #run;
  #rule;
  #begin = 0; // position of the buffer's first sample
  #buffer = new Float32Array(0);
  frame = 0; // the next one that is given

  constructor(run, rule) {
    this.#run = run;
    this.#rule = rule;
  }

  push(samples) {
    this.#buffer = joined(this.#buffer, samples);
    return this.#decode(this.#framesUpTo(this.#begin + this.#buffer.length - this.#rule.right_samples));
  }

  finish() {
    return this.#decode(this.#framesUpTo(this.#begin + this.#buffer.length));
  }

  #framesUpTo(position) {
    return Math.floor(position / this.#rule.frame_samples) + 1;
  }

  async #decode(stop) {
    if (stop <= this.frame || !this.#buffer.length) return new Float32Array(0);
    const logits = await this.#run(this.#buffer);
    const first = this.frame - this.#begin / this.#rule.frame_samples;
    const probabilities = Float32Array.from(logits.subarray(first, first + stop - this.frame), sigmoid);
    this.frame = stop;
    const keep = Math.max(this.#begin, stop * this.#rule.frame_samples - this.#rule.left_samples);
    this.#buffer = this.#buffer.slice(keep - this.#begin);
    this.#begin = keep;
    return probabilities;
  }
}

/** Events of probabilities, one frame after the other: { start, stop, probability } each. */
export class Segmenter {
  #rule;
  #last = 0; // frame that is likely enough
  #heard = []; // probabilities since the first frame of the event
  frame = 0;
  first = null; // frame of the event that is under way

  constructor(rule) {
    this.#rule = rule;
  }

  *push(probabilities) {
    const { merge_seconds: merge, longest_seconds: longest } = this.#rule;
    const perSecond = this.#rule.sampling_rate / this.#rule.frame_samples;
    const low = Math.fround(this.#rule.low); // probabilities are in single precision
    for (const probability of probabilities) {
      if (probability >= low) {
        if (this.first === null) [this.first, this.#heard] = [this.frame, []];
        this.#last = this.frame;
      }
      if (this.first !== null) {
        this.#heard.push(probability);
        const isOver = this.frame - this.#last >= merge * perSecond;
        if (isOver || this.frame - this.first >= longest * perSecond) yield* this.finish();
      }
      this.frame++;
    }
  }

  /** The event that is under way, as if the recording ended here. */
  *finish() {
    if (this.first === null) return;
    const { threshold, shortest_seconds: shortest, sampling_rate: rate, frame_samples: step } = this.#rule;
    const start = Math.max(0, this.first * step - step / 2);
    const stop = this.#last * step + step / 2;
    const probability = median(this.#heard.slice(0, this.#last - this.first + 1));
    this.first = null;
    if (probability >= threshold && stop - start >= shortest * rate) yield { start, stop, probability };
  }
}

/** Events of a stream, each with its `audio` and a margin on both sides, which the emotion model hears too. */
export class EventStream {
  #frames;
  #segmenter;
  #rule;
  #begin = 0;
  #buffer = new Float32Array(0);

  /** `run` gives the logits of a waveform's frames; `rule` is the detector's events.json. */
  constructor(run, rule) {
    this.#rule = rule;
    this.#frames = new FrameStream(run, rule);
    this.#segmenter = new Segmenter(rule);
  }

  /** Takes samples at the detector's rate; gives the events that are over. */
  async push(samples) {
    this.#buffer = joined(this.#buffer, samples);
    const found = this.#cut(this.#segmenter.push(await this.#frames.push(samples)));
    const step = this.#rule.frame_samples;
    const first = this.#segmenter.first ?? this.#segmenter.frame;
    const keep = Math.max(this.#begin, Math.trunc(first * step - step / 2 - this.#margin));
    this.#buffer = this.#buffer.slice(keep - this.#begin);
    this.#begin = keep;
    return found;
  }

  /** The stream has ended: the events that were not over. */
  async finish() {
    const last = this.#cut(this.#segmenter.push(await this.#frames.finish()));
    return [...last, ...this.#cut(this.#segmenter.finish())];
  }

  get #margin() {
    return this.#rule.margin_seconds * this.#rule.sampling_rate;
  }

  #cut(detections) {
    const margin = Math.trunc(this.#margin);
    const end = this.#begin + this.#buffer.length;
    return [...detections].map(({ start, stop, probability }) => {
      stop = Math.min(stop, end);
      const from = Math.max(0, start - margin - this.#begin);
      return { start, stop, probability, audio: this.#buffer.slice(from, stop + margin - this.#begin) };
    });
  }
}

function joined(one, other) {
  const both = new Float32Array(one.length + other.length);
  both.set(one);
  both.set(other, one.length);
  return both;
}
