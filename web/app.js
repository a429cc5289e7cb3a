/* The page: buttons and choices to recordings and models, and answers onto the screen. */

import { drawAnswer } from "./draw.js";
import { burstNote, eventsSection, heardIn } from "./draw_events.js";
import { Engine, webGpuAdapter } from "./engine.js";
import { Ear, HEARD_SECONDS, HOP_SECONDS } from "./live.js";
import { joinBlocks, peakOf, startMicrophone } from "./microphone.js";
import { droppedFiles, modelOfFiles, readPage } from "./models.js";
import { playSpan } from "./player.js";
import { readRecording } from "./recording.js";
import { meanOf, tasksOf } from "./scores.js";
import { encodeWav } from "./audio/wav.js";

const [MAX_SECONDS, LONGEST_WHOLE] = [120, 10]; // of a recording, and of one that is scored in one piece
const MAX_SECONDS_OF_EVENTS = 600; // of a recording where the page finds events
const WINDOW_SECONDS = 5;
const PROVIDERS = { wasm: "processor (WebAssembly)", webgpu: "graphics card (WebGPU)" };

const $ = (id) => document.getElementById(id);
const engine = new Engine();
let models = [];
let detector = null; // of events, where the page has one
let rejection = null;
let tasks = null; // of the open model; null while none is
let check = null; // whether a sound is a burst, where the model's calibration says so: { threshold }
let opening = Promise.resolve();
let source = null; // of the last recording: a function that reads it anew, since a worker keeps what it is given
let microphone = null;
let turn = 0; // counts what the visitor asked for: what comes late of something older is not shown

async function start() {
  $("provider").append(...Object.entries(PROVIDERS).map(([value, text]) => new Option(text, value)));
  const adapter = await webGpuAdapter();
  $("provider").value = adapter === "card" ? "webgpu" : "wasm";
  $("provider").querySelector("[value=webgpu]").disabled = !adapter;
  ({ models, detector, rejection } = await readPage());
  if (detector) engine.useDetector(await detector.read());
  $("model").append(...models.map(({ name }, index) => new Option(name, index)));
  listPrecisions();
  await openModel();
}

// ---- models ---------------------------------------------------------------------------------------------------------

function listPrecisions() {
  const { precisions } = models[$("model").value];
  const said = ([precision, { bytes }]) => new Option(`${precision}, ${(bytes / 2 ** 20).toFixed(1)} MB`, precision);
  $("precision").replaceChildren(...Object.entries(precisions).map(said));
  if (precisions.fp16) $("precision").value = "fp16"; // half the download; models.json has the difference
}

/** Opens the chosen model; one after the other, and the last choice is the one that stays. */
function openModel() {
  opening = opening.then(async () => {
    const model = models[$("model").value];
    const [precision, provider] = [$("precision").value, $("provider").value];
    const say = (state, words) => microphone || show(state, words); // a visitor who records is told how to stop
    tasks = null;
    say("loading", `Loading ${model.name}…`);
    try {
      const files = await model.read(precision, (share) => {
        say("loading", `Loading ${model.name}: ${Math.round(100 * share)} %`);
      });
      const { threads } = await engine.open(provider, files);
      tasks = tasksOf(files.config, files.calibration);
      const thresholds = files.calibration?.burst?.thresholds ?? [];
      const place = rejection.rates.indexOf(rejection.false_alarms_per_hour);
      check = place in thresholds ? { threshold: thresholds[place] } : null;
      $("result").dataset.model = `${model.name} ${precision} ${provider}`;
      const threading = provider === "wasm" && threads > 1 ? `, ${threads} threads` : "";
      say("ready", `${model.name} is ready, on the ${PROVIDERS[provider]}${threading}. Record, or choose a file.`);
    } catch (error) {
      if (provider !== "webgpu") return fail(`${model.name}: cannot be opened (${error.message})`);
      // Said, and shown in the choice: WebGPU differs from browser to browser.
      $("provider").querySelector("[value=webgpu]").disabled = true;
      $("provider").value = "wasm";
      fail(`WebGPU cannot run ${model.name} (${error.message}); using the processor instead`);
      openModel();
    }
    return undefined;
  });
  return opening;
}

async function changeModel() {
  const mine = ++turn;
  await openModel();
  if (tasks && source && !microphone && mine === turn) await scoreRecording();
}

async function useFiles(files) {
  try {
    models.push(modelOfFiles(files));
  } catch (error) {
    return fail(error.message);
  }
  $("model").append(new Option(models.at(-1).name, models.length - 1));
  $("model").value = models.length - 1;
  listPrecisions();
  return changeModel();
}

// ---- recordings -----------------------------------------------------------------------------------------------------

function useRecording(name, read, blob) {
  source = { name, read };
  URL.revokeObjectURL($("player").src);
  $("player").src = $("save").href = URL.createObjectURL(blob);
  $("player").hidden = false;
  $("save").hidden = blob instanceof File; // a file the visitor has
  return scoreRecording();
}

async function scoreRecording() {
  const { name, read } = source;
  const mine = ++turn;
  show("scoring", `Listening to ${name}…`);
  try {
    const recording = await read();
    await opening;
    if (!tasks || mine !== turn) return;
    const answer = await score(recording);
    if (mine === turn) showAnswer(name, answer);
  } catch (error) {
    if (mine !== turn) return;
    $("player").hidden = true;
    fail(error.message.startsWith(name) ? error.message : `${name}: ${error.message}`);
  }
}

function score(recording, isLive = false) {
  const windows = { windowSeconds: WINDOW_SECONDS, hopSeconds: WINDOW_SECONDS / 2 };
  const longestWhole = isLive ? Infinity : LONGEST_WHOLE;
  const maxSeconds = detector ? MAX_SECONDS_OF_EVENTS : MAX_SECONDS;
  return engine.score({ recording, maxSeconds, longestWhole, withEvents: !isLive, ...windows });
}

function showAnswer(name, { rows, spans, bursts, events, seconds, milliseconds }) {
  const mean = meanOf(rows);
  const first = check && rows.length === 1 ? [burstNote(bursts[0], check)] : []; // a recording has its events'
  const play = ({ start, end }) => playSpan($("player"), start, end);
  if (events) first.push(eventsSection(tasks, events, [0, seconds], check, play));
  drawAnswer($("answer"), tasks, { mean, rows, spans }, first);
  const found = events ? `, ${events.length} ${events.length === 1 ? "event" : "events"}` : "";
  const windows = rows.length > 1 ? `, ${rows.length} windows` : "";
  const took = `${seconds.toFixed(2)} s${windows}${found}, in ${Math.round(milliseconds.all)} ms`;
  show("scored", `${name}: ${heardIn(tasks, mean)}. ${took}.`);
  const times = { milliseconds: milliseconds.all, eventMilliseconds: milliseconds.events };
  Object.assign($("result").dataset, { ...times, seconds, name });
}

// ---- microphone -----------------------------------------------------------------------------------------------------

async function toggle(button, begin) {
  if (microphone) return microphone.finish();
  button.disabled = true;
  turn += 1;
  show("starting", "Starting the microphone: allow access when the browser asks.");
  try {
    microphone = await begin();
    turn += 1;
    setPressed(button, true);
  } catch (error) {
    fail(error.message);
  }
  button.disabled = false;
  return undefined;
}

function setPressed(button, isPressed) {
  button.dataset.label ??= button.textContent;
  button.textContent = isPressed ? "Stop" : button.dataset.label;
  button.setAttribute("aria-pressed", isPressed);
  for (const other of [$("record"), $("listen")]) other.disabled = isPressed && other !== button;
  $("level").hidden = !isPressed;
}

async function stop(opened, button) {
  await opened.stop();
  microphone = null;
  setPressed(button, false);
}

async function beginRecording() {
  const blocks = [];
  let seconds = 0;
  const opened = await startMicrophone((block, rate) => {
    blocks.push(block);
    showLevel(block);
    seconds += block.length / rate;
    if (seconds >= MAX_SECONDS) microphone?.finish();
  });
  show("recording", "Recording: press Stop when you are done.");
  const finish = async () => {
    await stop(opened, $("record"));
    const samples = joinBlocks(blocks);
    const read = async () => ({ rate: opened.rate, channels: [samples.slice()] });
    await useRecording("recording.wav", read, new Blob([encodeWav(samples, opened.rate)], { type: "audio/wav" }));
  };
  return { finish };
}

async function beginListening() {
  source = null;
  const ear = new Ear({
    isReady: () => Boolean(tasks),
    score: (recording) => score(recording, true),
    detect: (request) => (detector ? engine.detect(request) : []),
    onQuiet: () => show("listening", "Listening: no sound yet."),
    onError: (error) => fail(error.message),
    onAnswer: ({ rows, spans, burst, events, span, milliseconds }) => {
      const first = check && burst !== null ? [burstNote(burst, check)] : [];
      if (detector) first.push(eventsSection(tasks, events, span, check, null));
      if (rows.length) drawAnswer($("answer"), tasks, { mean: rows.at(-1), rows, spans }, first);
      else $("answer").replaceChildren(...first);
      Object.assign($("result").dataset, { milliseconds, hops: Number($("result").dataset.hops ?? 0) + 1 });
      show("listening", `Listening: the last ${HEARD_SECONDS} s, every ${HOP_SECONDS} s.`);
    },
  });
  const opened = await startMicrophone((block, rate) => {
    showLevel(block);
    ear.hear(block, rate);
  });
  show("listening", "Listening…");
  const finish = async () => {
    await stop(opened, $("listen"));
    await ear.close();
    show("ready", "Stopped listening.");
  };
  return { finish };
}

function showLevel(block) {
  const decibels = 20 * Math.log10(Math.max(1e-5, peakOf(block)));
  $("level").firstElementChild.style.width = `${Math.max(0, 100 + (100 * decibels) / 60)}%`;
}

// ---- what is said ---------------------------------------------------------------------------------------------------

function show(state, words) {
  $("result").dataset.state = state;
  $("error").hidden = true;
  if ($("status").textContent !== words) $("status").textContent = words; // otherwise screen readers read it again
}

function fail(words) {
  $("result").dataset.state = "error";
  $("error").textContent = words;
  $("error").hidden = false;
  $("status").textContent = "";
  $("answer").replaceChildren();
}

function takeFiles(files) {
  if (!files.length) return undefined;
  if (files.some((file) => /\.(onnx|json)$/.test(file.name))) return useFiles(files);
  const [file] = files;
  return useRecording(file.name, () => readRecording(file), file);
}

$("model").addEventListener("change", () => (listPrecisions(), changeModel()));
$("precision").addEventListener("change", changeModel);
$("provider").addEventListener("change", changeModel);
$("file").addEventListener("change", () => takeFiles([...$("file").files]));
$("own").addEventListener("change", () => $("own").files.length && useFiles([...$("own").files]));
$("record").addEventListener("click", () => toggle($("record"), beginRecording));
$("listen").addEventListener("click", () => toggle($("listen"), beginListening));
for (const type of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(type, async (event) => {
    event.preventDefault();
    document.body.classList.toggle("dragging", type === "dragenter" || type === "dragover");
    if (type === "drop") await takeFiles(await droppedFiles(event.dataTransfer));
  });
}

start().catch((error) => fail(error.message));
