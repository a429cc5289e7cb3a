/* The microphone as it is: no echo cancelling, noise suppression or automatic gain, and no codec in between. */

const ASKED = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
const START_SECONDS = 10; // from leave to use it until its first samples

/** Starts it: `onBlock(samples, rate)` gets blocks of floats, the first of them before this ends. → { rate, stop() }.
 * Throws an Error that says what to do, and then holds nothing open.
 */
export async function startMicrophone(onBlock) {
  const stream = await openStream();
  const context = new AudioContext();
  const stop = () => {
    stream.getTracks().forEach((track) => track.stop());
    return context.close();
  };
  try {
    const recorder = await withinSeconds(record(context, stream, onBlock));
    return {
      rate: context.sampleRate,
      stop: () => {
        recorder.port.onmessage = null;
        return stop();
      },
    };
  } catch (error) {
    stop(); // what does not start may not stop either: nobody waits for it
    throw error;
  }
}

/** The visitor takes the time they need to allow it; where it is allowed already, START_SECONDS are enough. */
async function openStream() {
  if (!navigator.mediaDevices) throw new Error("browsers allow microphone access only on https pages");
  const permission = await navigator.permissions?.query({ name: "microphone" }).catch(() => null); // unknown to some
  const opening = navigator.mediaDevices.getUserMedia({ audio: ASKED });
  try {
    return await (permission?.state === "granted" ? withinSeconds(opening) : opening);
  } catch (error) {
    opening.then((late) => late.getTracks().forEach((track) => track.stop())).catch(() => null);
    if (error.name === "NotAllowedError") throw new Error("microphone access is blocked: allow it in the address bar");
    if (error.name === "NotFoundError") throw new Error("no microphone was found");
    if (error instanceof DOMException) throw new Error(`the microphone cannot be started (${error.message})`);
    throw error;
  }
}

/** → the recorder, once it has given a block: before, the browser may still be starting its sound. */
async function record(context, stream, onBlock) {
  await context.audioWorklet.addModule(new URL("./recorder.js", import.meta.url));
  const recorder = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
  await new Promise((resolve, reject) => {
    recorder.port.onmessage = ({ data }) => {
      onBlock(data, context.sampleRate);
      resolve();
    };
    context.createMediaStreamSource(stream).connect(recorder);
    context.resume().catch(reject);
  });
  return recorder;
}

/** What `promise` gives, or an Error after START_SECONDS. */
function withinSeconds(promise) {
  const words = `no sound from the microphone within ${START_SECONDS} s: is it plugged in, and not in use by another program?`;
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(words)), 1000 * START_SECONDS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

export function peakOf(samples) {
  return samples.reduce((peak, sample) => Math.max(peak, Math.abs(sample)), 0);
}

/** Blocks → the last `most` samples of them. */
export function joinBlocks(blocks, most = Infinity) {
  const length = blocks.reduce((sum, block) => sum + block.length, 0);
  const joined = new Float32Array(length);
  let place = 0;
  for (const block of blocks) {
    joined.set(block, place);
    place += block.length;
  }
  return length > most ? joined.slice(length - most) : joined;
}
