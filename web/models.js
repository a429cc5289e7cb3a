/* The models of the page, models.json, and those a visitor drops on it. */

export const PRECISIONS = { fp32: "model.onnx", fp16: "model_fp16.onnx", int8: "model_quantized.onnx" };
const SETTINGS = ["config.json", "preprocessor_config.json"];
const [CALIBRATION, REPORT] = ["calibration.json", "export.json"];

/** What models.json says: { models, detector, rejection }.
 *
 * `models` are [{ name, precisions: { fp32: { bytes, max_difference }, … }, read(precision) }]; `detector` is of events,
 * { name, seconds, read() }, or null; `rejection` says which of calibration.json's thresholds holds.
 */
export async function readPage() {
  const { models, detector, rejection } = await (await fetchFile("models.json")).json();
  const read = async () => {
    const files = ["events.onnx", "events.json"].map((file) => fetchFile(`${detector.folder}/${file}`));
    const [graph, rule] = await Promise.all(files);
    return { graph: await graph.arrayBuffer(), rule: await rule.json() };
  };
  return { models: listModels(models), detector: detector ? { ...detector, read } : null, rejection };
}

function listModels(models) {
  return models.map(({ name, folder, files, is_calibrated: isCalibrated }) => ({
    name,
    precisions: Object.fromEntries(files.map((file) => [file.precision, file])),
    read: async (precision, onProgress) => {
      const settings = isCalibrated ? [...SETTINGS, CALIBRATION] : SETTINGS;
      const [config, preprocessor, calibration] = await Promise.all(
        settings.map(async (file) => (await fetchFile(`${folder}/${file}`)).json()),
      );
      const graph = await download(`${folder}/onnx/${PRECISIONS[precision]}`, onProgress);
      return { graph, config, preprocessor, calibration };
    },
  }));
}

/** A model of dropped files: an export's folder, or its files. Throws an Error that says what is missing. */
export function modelOfFiles(files) {
  const named = new Map(files.map((file) => [file.name, file]));
  const graphs = files.filter((file) => file.name.endsWith(".onnx"));
  const missing = SETTINGS.filter((name) => !named.has(name));
  if (!graphs.length || missing.length) {
    const lacking = [...(graphs.length ? [] : ["model.onnx"]), ...missing].join(", ");
    throw new Error(`not an export: ${lacking} missing. Drop a folder written by python -m avb.export`);
  }
  const precisions = {};
  for (const graph of graphs) {
    const known = Object.keys(PRECISIONS).find((precision) => PRECISIONS[precision] === graph.name);
    precisions[known ?? graph.name] = { bytes: graph.size, file: graph };
  }
  return {
    name: `your model (${graphs[0].name})`,
    precisions,
    read: async (precision) => {
      const [config, preprocessor] = await Promise.all(SETTINGS.map((name) => readJson(named.get(name))));
      if (!config.id2label) throw new Error("config.json has no labels (id2label): it was not written by this project");
      // As in Python, one that was fitted to other weights is not used.
      const [calibration, report] = await Promise.all([CALIBRATION, REPORT].map((name) => readJson(named.get(name))));
      const weights = report?.weights ?? config.export?.weights;
      const fits = calibration && calibration.weights === weights;
      const graph = await precisions[precision].file.arrayBuffer();
      return { graph, config, preprocessor, calibration: fits ? calibration : undefined };
    },
  };
}

/** All files of a drop, those of folders included. */
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  const files = [];
  const visit = async (entry) => {
    if (entry.isFile) return files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    const reader = entry.createReader();
    for (;;) {
      const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!part.length) return undefined;
      for (const child of part) await visit(child);
    }
  };
  for (const entry of entries) await visit(entry);
  return files;
}

async function readJson(file) {
  if (!file) return undefined;
  try {
    return JSON.parse(await file.text());
  } catch {
    throw new Error(`${file.name} is not JSON: export the model again`);
  }
}

async function fetchFile(path) {
  const answer = await fetch(new URL(path, import.meta.url));
  if (!answer.ok) throw new Error(`${path} is missing (${answer.status}): build the page again`);
  return answer;
}

/** A file's bytes, with progress from 0 to 1 where its length is known. */
async function download(path, onProgress) {
  const answer = await fetchFile(path);
  const total = Number(answer.headers.get("Content-Length"));
  const parts = [];
  let done = 0;
  for (const reader = answer.body.getReader(); ; ) {
    const part = await reader.read();
    if (part.done) break;
    parts.push(part.value);
    done += part.value.length;
    if (total) onProgress?.(Math.min(1, done / total));
  }
  return new Blob(parts).arrayBuffer();
}
