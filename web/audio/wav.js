/* WAV files → channels of floats at the file's own rate; what the browser's decoder would resample unasked.
 *
 * Read are RIFF and RF64 with PCM of 8 to 32 bits, floats of 32 and 64 bits, A-law and µ-law, the extensible header
 * too. A file that holds less audio than its header says is refused, as `audio_avb.load_audio` does.
 */

const PCM = 1, FLOAT = 3, ALAW = 6, MULAW = 7, EXTENSIBLE = 0xfffe;
const LOST_SHARE = 0.01; // of the promised audio that may be missing

export function isWav(bytes) {
  const view = new DataView(bytes);
  return bytes.byteLength >= 12 && ["RIFF", "RF64"].includes(text(view, 0)) && text(view, 8) === "WAVE";
}

/** → { rate, channels: [Float32Array, …] }. Throws an Error that says what is wrong, without the file's name. */
export function decodeWav(bytes) {
  const view = new DataView(bytes);
  const chunks = readChunks(view);
  if (!chunks.format) throw new Error("damaged WAV without a format chunk; copy or export it again");
  if (!chunks.data) throw new Error("WAV without audio; record it again");
  const { kind, count, rate, bits, frameBytes } = chunks.format;
  const read = READERS[`${kind}/${bits}`];
  if (!read || count < 1 || frameBytes !== (count * bits) / 8) {
    throw new Error(`WAV format ${kind} with ${bits} bits is not supported here; export it as 16-bit PCM`);
  }
  const { start, promised, present } = chunks.data;
  if (present < promised * (1 - LOST_SHARE)) {
    throw new Error(`truncated: ${present} of ${promised} bytes of audio are present; copy or export it again`);
  }
  const frames = Math.floor(present / frameBytes);
  const channels = [];
  for (let channel = 0; channel < count; channel++) {
    const samples = new Float32Array(frames);
    const width = bits / 8;
    for (let frame = 0, place = start + channel * width; frame < frames; frame++, place += frameBytes) {
      samples[frame] = read(view, place);
    }
    channels.push(samples);
  }
  return { rate, channels };
}

function readChunks(view) {
  const chunks = {};
  let long = null; // RF64's size of the audio
  for (let place = 12; place + 8 <= view.byteLength; ) {
    const name = text(view, place);
    let size = view.getUint32(place + 4, true);
    const start = place + 8;
    if (name === "ds64" && start + 16 <= view.byteLength) long = Number(view.getBigUint64(start + 8, true));
    if (name === "fmt " && start + 16 <= view.byteLength) chunks.format = readFormat(view, start, size);
    if (name === "data") {
      const present = view.byteLength - start;
      // A stream that was never finished claims nothing, or all there can be.
      const unstated = size === 0xffffffff && long === null;
      const promised = unstated ? present : size === 0xffffffff ? long : size;
      chunks.data = { start, promised, present: Math.min(promised, present) };
      break;
    }
    place = start + size + (size % 2);
  }
  return chunks;
}

function readFormat(view, start, size) {
  let kind = view.getUint16(start, true);
  if (kind === EXTENSIBLE && size >= 40 && start + 26 <= view.byteLength) kind = view.getUint16(start + 24, true);
  return {
    kind,
    count: view.getUint16(start + 2, true),
    rate: view.getUint32(start + 4, true),
    frameBytes: view.getUint16(start + 12, true),
    bits: view.getUint16(start + 14, true),
  };
}

const READERS = {
  [`${PCM}/8`]: (view, place) => (view.getUint8(place) - 128) / 128,
  [`${PCM}/16`]: (view, place) => view.getInt16(place, true) / 32768,
  [`${PCM}/24`]: (view, place) => (view.getUint16(place, true) / 256 + view.getInt8(place + 2) * 256) / 32768,
  [`${PCM}/32`]: (view, place) => view.getInt32(place, true) / 2147483648,
  [`${FLOAT}/32`]: (view, place) => view.getFloat32(place, true),
  [`${FLOAT}/64`]: (view, place) => view.getFloat64(place, true),
  [`${ALAW}/8`]: (view, place) => alaw(view.getUint8(place)) / 32768,
  [`${MULAW}/8`]: (view, place) => mulaw(view.getUint8(place)) / 32768,
};

/** G.711. */
function alaw(code) {
  code ^= 0x55;
  const exponent = (code >> 4) & 7;
  const mantissa = ((code & 15) << 4) + 8;
  const value = exponent ? (mantissa + 0x100) << (exponent - 1) : mantissa;
  return code & 0x80 ? value : -value;
}

function mulaw(code) {
  code = ~code & 0xff;
  const value = ((((code & 15) << 3) + 0x84) << ((code >> 4) & 7)) - 0x84;
  return code & 0x80 ? -value : value;
}

function text(view, place) {
  return String.fromCharCode(...[0, 1, 2, 3].map((offset) => view.getUint8(place + offset)));
}

/** One channel → a WAV of 16 bits, for the page's player. */
export function encodeWav(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const put = (place, words) => [...words].forEach((sign, index) => view.setUint8(place + index, sign.charCodeAt(0)));
  put(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  put(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, PCM, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  put(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, index) => {
    view.setInt16(44 + 2 * index, Math.round(32767 * Math.min(1, Math.max(-1, sample))), true);
  });
  return view.buffer;
}
