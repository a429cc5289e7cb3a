// What the page's audio modules make of WAV files: `node web_audio.mjs PAGE FOLDER SETTINGS` writes NAME.f32 beside each
// NAME.wav, and prints by name "ok" or the error; and the events of probabilities by a rule, both from events.json.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";

const [page, folder, settings] = process.argv.slice(2);
const { decodeWav, isWav } = await import(`${page}/audio/wav.js`);
const { prepare, toMono, windowSpans } = await import(`${page}/audio/prepare.js`);
const { fileRate } = await import(`${page}/audio/rate.js`);
const said = {};
const { Segmenter } = await import(`${page}/events.js`);
const { rule, probabilities } = JSON.parse(readFileSync(`${folder}/events.json`));
const segmenter = new Segmenter(rule);
said.events = [...segmenter.push(Float32Array.from(probabilities)), ...segmenter.finish()];
for (const name of readdirSync(folder).filter((name) => name !== "events.json")) {
  const file = readFileSync(`${folder}/${name}`);
  const bytes = file.buffer.slice(file.byteOffset, file.byteOffset + file.length);
  try {
    if (!name.endsWith(".wav")) {
      said[name] = fileRate(bytes);
      continue;
    }
    if (!isWav(bytes)) throw new Error("no WAV");
    const waveform = prepare(toMono(decodeWav(bytes), 16000, 20), JSON.parse(settings));
    writeFileSync(`${folder}/${name}.f32`, Buffer.from(waveform.buffer, waveform.byteOffset, waveform.byteLength));
    said[name] = "ok";
  } catch (error) {
    said[name] = error.message;
  }
}
const spans = [[5, 2, 2, 1], [32000, 16000, 1, 0.5], [33001, 16000, 1, 0.5], [160, 16000, 1, 0.5]];
said.spans = spans.map((span) => windowSpans(...span));
const { resample, ResampleStream } = await import(`${page}/audio/resample.js`);
const sound = Float32Array.from({ length: 30000 }, (_, place) => Math.sin(place * place * 1e-5));
said.streams = [16000, 44100, 48000, 37811].map((rate) => {
  const stream = new ResampleStream(rate, 16000);
  const heard = [];
  for (let start = 0; start < sound.length; start += 1024) heard.push(...stream.push(sound.slice(start, start + 1024)));
  const whole = resample(sound, rate, 16000);
  const wrong = heard.map((sample, place) => Math.abs(sample - whole[place]));
  return { late: whole.length - heard.length, wrong: Math.max(...wrong) };
});
console.log(JSON.stringify(said));
