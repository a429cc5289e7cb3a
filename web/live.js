/* Listening live: the last two seconds, every half second, scored as a clip of their own. */

import { joinBlocks, peakOf } from "./microphone.js";

export const HEARD_SECONDS = 2; // that are heard at once
export const HOP_SECONDS = 0.5;
const KEPT = 60; // answers
const QUIET = 0.003; // peak below which nothing is scored, -50 dBFS

export class Ear {
  #blocks = [];
  #held = 0; // samples in blocks
  #fresh = 0; // samples since the last answer
  #seconds = 0;
  #isBusy = false; // a hop that comes while the model is busy is left out
  #isClosed = false;
  #rows = [];
  #spans = [];
  #calls;

  /** `calls` are isReady(), score(recording), onAnswer({ rows, spans, milliseconds }), onQuiet() and onError(error). */
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
    if (this.#fresh < HOP_SECONDS * rate || this.#isBusy || !this.#calls.isReady()) return;
    this.#fresh = 0;
    const samples = joinBlocks(this.#blocks, HEARD_SECONDS * rate);
    if (peakOf(samples) < QUIET) this.#calls.onQuiet();
    else this.#answer(samples, rate);
  }

  close() {
    this.#isClosed = true;
  }

  async #answer(samples, rate) {
    this.#isBusy = true;
    const span = [Math.max(0, this.#seconds - samples.length / rate), this.#seconds];
    try {
      const { rows, milliseconds } = await this.#calls.score({ rate, channels: [samples] });
      if (this.#isClosed) return;
      this.#rows = [...this.#rows, rows[0]].slice(-KEPT);
      this.#spans = [...this.#spans, span].slice(-KEPT);
      this.#calls.onAnswer({ rows: this.#rows, spans: this.#spans, milliseconds: milliseconds.all });
    } catch (error) {
      this.#calls.onError(error);
    } finally {
      this.#isBusy = false;
    }
  }
}
