/* The microphone as it is: no echo cancelling, noise suppression or automatic gain, and no codec in between. */

const ASKED = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };

/** Starts it: `onBlock(samples, rate)` gets blocks of floats. → { rate, stop() }. Throws an Error that says what to do.
 */
export async function startMicrophone(onBlock) {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: ASKED });
  } catch (error) {
    const denied = error.name === "NotAllowedError";
    throw new Error(denied ? "the microphone is not allowed: allow it beside the address" : "no microphone was found");
  }
  const context = new AudioContext();
  await context.audioWorklet.addModule(new URL("./recorder.js", import.meta.url));
  const recorder = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
  recorder.port.onmessage = ({ data }) => onBlock(data, context.sampleRate);
  context.createMediaStreamSource(stream).connect(recorder);
  await context.resume();
  return {
    rate: context.sampleRate,
    stop: async () => {
      recorder.port.onmessage = null;
      stream.getTracks().forEach((track) => track.stop());
      await context.close();
    },
  };
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
