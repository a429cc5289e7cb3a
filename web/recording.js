/* A visitor's file → what worker.js takes: a WAV's bytes as they are, anything else as the browser decodes it. */

import { fileRate } from "./audio/rate.js";
import { isWav } from "./audio/wav.js";

const MAX_BYTES = 128 * 2 ** 20;

/** → { bytes } or { rate, channels }. Throws an Error that begins with the file's name. */
export async function readRecording(file) {
  if (!file.size) throw new Error(`${file.name}: the file is empty (0 bytes); record it again`);
  if (file.size > MAX_BYTES) throw new Error(`${file.name}: larger than 128 MiB; cut it into parts`);
  const bytes = await file.arrayBuffer();
  if (isWav(bytes)) return { bytes };
  const context = new OfflineAudioContext(1, 1, Math.min(768000, Math.max(3000, fileRate(bytes))));
  try {
    const decoded = await context.decodeAudioData(bytes);
    const indices = [...Array(decoded.numberOfChannels).keys()];
    return { rate: decoded.sampleRate, channels: indices.map((index) => decoded.getChannelData(index).slice()) };
  } catch {
    throw new Error(`${file.name}: this browser cannot decode its audio; save it as WAV, MP3, FLAC or OGG`);
  }
}
