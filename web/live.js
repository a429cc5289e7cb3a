/* Listening live: the last two seconds, every half second, scored as a clip of their own; and events as they end. */

import { joinBlocks, peakOf } from "./microphone.js";

export const HEARD_SECONDS = 2; // that are heard at once
export const HOP_SECONDS = 0.5;
const KEPT = 60; // answers
const SHOWN_SECONDS = 30; // of events
const QUIET = 0.003; // peak below which nothing is scored, -50 dBFS

export class Ear {
  #blocks = [];
  #held = 0; // samples in blocks
  #fresh = 0; // samples since the last answer
  #seconds = 0;
  #isBusy = false; // a hop that comes while the model is busy is left out
  #isClosed = false;
  #unheard = []; // blocks that the detector has not heard
  #origin = null; // where the detector began, seconds
  #rate = 0;
  #events = [];
  #rows = [];
  #spans = [];
  #calls;

  /** `calls` are isReady(), score(recording), detect({ rate, samples, origin, isFirst, isLast }), onError(error),
   * onQuiet() and onAnswer({ rows, spans, burst, events, span, milliseconds }). */
  constructor(calls) {
    this.#calls = calls;
  }

  /** Takes a block of the microphone's samples. */
  hear(block, rate) {
    this.#blocks.push(block);
    this.#held += block.length;
    this.#fresh += block.length;
    this.#seconds += block.length / rate;
    while (this.#held - this.#blocks[0].length >= HEARD_SECONDS * rate) this.#held -= this.#blocks.shift().length;
    this.#rate = rate;
    if (this.#calls.isReady()) this.#unheard.push(block);
    if (this.#fresh < HOP_SECONDS * rate || this.#isBusy || !this.#calls.isReady()) return;
    this.#fresh = 0;
    this.#answer(joinBlocks(this.#blocks, HEARD_SECONDS * rate), rate);
  }

  /** No more is heard: an event that is under way ends here. */
  async close() {
    this.#isClosed = true;
    await this.#detect(true);
  }

  async #detect(isLast) {
    const [samples, isFirst] = [joinBlocks(this.#unheard), this.#origin === null];
    this.#unheard = [];
    if (isFirst) this.#origin = this.#seconds - samples.length / this.#rate;
    const found = await this.#calls.detect({ rate: this.#rate, samples, origin: this.#origin, isFirst, isLast });
    this.#events = [...this.#events, ...found].filter(({ end }) => end > this.#seconds - SHOWN_SECONDS);
  }

  async #answer(samples, rate) {
    this.#isBusy = true;
    const span = [Math.max(0, this.#seconds - samples.length / rate), this.#seconds];
    const started = performance.now();
    const isQuiet = peakOf(samples) < QUIET;
    try {
      await this.#detect(false);
      let burst = null;
      if (!isQuiet) {
        const { rows, bursts } = await this.#calls.score({ rate, channels: [samples] });
        this.#rows = [...this.#rows, rows[0]].slice(-KEPT);
        this.#spans = [...this.#spans, span].slice(-KEPT);
        [burst] = bursts;
      }
      if (this.#isClosed) return;
      const answer = { rows: this.#rows, spans: this.#spans, burst, events: this.#events };
      const shownSpan = [Math.max(0, this.#seconds - SHOWN_SECONDS), this.#seconds];
      this.#calls.onAnswer({ ...answer, span: shownSpan, milliseconds: performance.now() - started });
      if (isQuiet) this.#calls.onQuiet();
    } catch (error) {
      this.#calls.onError(error);
    } finally {
      this.#isBusy = false;
    }
  }
}
