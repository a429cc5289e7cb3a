/* The rate that a compressed file was made at, from its first bytes.
 *
 * The browser's decoder resamples to the rate of its context. A context at the file's own rate leaves the samples as
 * they are; the resampling is then resample.js's, the same everywhere.
 */

const MP3_RATES = { 3: [44100, 48000, 32000], 2: [22050, 24000, 16000], 0: [11025, 12000, 8000] };
const AAC_RATES = [96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350];
const OPUS_RATE = 48000; // what every Opus stream decodes to
const SEARCHED = 1 << 16; // bytes that are looked through

/** Hz of a FLAC, MP3, ADTS, Ogg or MP4 file; 48,000 where it is none of these, or does not say. */
export function fileRate(buffer) {
  const bytes = new Uint8Array(buffer);
  const view = new DataView(buffer);
  if (startsWith(bytes, 0, "fLaC")) return view.getUint32(18) >>> 12;
  if (startsWith(bytes, 0, "OggS")) return oggRate(bytes, view);
  if (startsWith(bytes, 4, "ftyp")) return mp4Rate(bytes, view);
  return frameRate(bytes) ?? OPUS_RATE;
}

function oggRate(bytes, view) {
  const vorbis = find(bytes, "\x01vorbis", 0, 512);
  if (vorbis >= 0) return view.getUint32(vorbis + 12, true);
  const flac = find(bytes, "fLaC", 0, 512);
  return flac >= 0 ? view.getUint32(flac + 18) >>> 12 : OPUS_RATE;
}

/** The sample entry `mp4a` holds the rate as 16.16 bits; a file from a phone has it at its end. */
function mp4Rate(bytes, view) {
  const table = find(bytes, "stsd", 0, bytes.length);
  const entry = table < 0 ? -1 : find(bytes, "mp4a", table, table + 64);
  return entry >= 0 && entry + 32 <= bytes.length ? view.getUint16(entry + 28) || OPUS_RATE : OPUS_RATE;
}

/** Of the first MPEG audio frame behind an ID3 tag, or ADTS frame. */
function frameRate(bytes) {
  let start = 0;
  if (startsWith(bytes, 0, "ID3") && bytes.length > 10) {
    start = 10 + ((bytes[6] << 21) | (bytes[7] << 14) | (bytes[8] << 7) | bytes[9]);
  }
  for (let place = start; place + 4 <= Math.min(bytes.length, start + SEARCHED); place++) {
    if (bytes[place] !== 0xff || (bytes[place + 1] & 0xe0) !== 0xe0) continue;
    const layer = (bytes[place + 1] >> 1) & 3;
    if (layer === 0) {
      const rate = AAC_RATES[(bytes[place + 2] >> 2) & 15]; // ADTS
      if ((bytes[place + 1] & 0xf0) === 0xf0 && rate) return rate;
      continue;
    }
    const rate = MP3_RATES[(bytes[place + 1] >> 3) & 3]?.[(bytes[place + 2] >> 2) & 3];
    const hasBitRate = bytes[place + 2] >> 4 > 0 && bytes[place + 2] >> 4 < 15;
    if (rate && hasBitRate) return rate;
  }
  return null;
}

function find(bytes, words, start, end) {
  for (let place = start; place + words.length <= Math.min(end, bytes.length); place++) {
    if (startsWith(bytes, place, words)) return place;
  }
  return -1;
}

function startsWith(bytes, place, words) {
  if (place + words.length > bytes.length) return false;
  for (let index = 0; index < words.length; index++) {
    if (bytes[place + index] !== words.charCodeAt(index)) return false;
  }
  return true;
}
