/* Logits → scores by label, as `scores_from_logits` of pipeline_avb and `calibrated_scores` of calibration_avb. */

/** The parts of a model's output, one per task: [{ name, labels, isClassifier, range, temperature, start, end }]. */
export function tasksOf(config, calibration) {
  const labels = Object.keys(config.id2label).map((_, index) => config.id2label[index]);
  const whole = { name: "", loss: config.loss, num_labels: labels.length };
  const parts = config.loss === "multitask" ? config.tasks : [whole];
  let start = 0;
  return parts.map(({ name, loss, num_labels: count }) => {
    const isClassifier = loss === "ce";
    const task = {
      name,
      labels: labels.slice(start, start + count),
      isClassifier,
      range: isClassifier ? [0, 1] : (config.label_range ?? [0, 1]),
      temperature: calibration?.tasks[name]?.temperature ?? 1,
      start,
      end: start + count,
    };
    start += count;
    return task;
  });
}

/** One row of logits → one of scores: probabilities of classes, and what a regression gives as it is. */
export function scoresOf(logits, tasks) {
  const scores = Float32Array.from(logits);
  for (const { isClassifier, temperature, start, end } of tasks) {
    if (isClassifier) scores.set(softmax(logits.subarray(start, end), temperature), start);
  }
  return scores;
}

/** One row of logits → how likely it is a burst, as `burst_scores` of calibration_avb; null without a `check`. */
export function burstScore(logits, tasks, check) {
  if (!check) return null;
  const raw = scoresOf(logits, tasks.map((task) => ({ ...task, temperature: 1 })));
  let inputs = Array.from(raw, (score) => Math.log(Math.max(score, 1e-6)));
  if (check.hidden_weights?.length) {
    const biases = check.hidden_biases;
    inputs = check.hidden_weights.map((weights, unit) => Math.max(0, weightedSum(weights, inputs, biases[unit])));
  }
  return 1 / (1 + Math.exp(-Math.min(60, Math.max(-60, weightedSum(check.weights, inputs, check.bias)))));
}

function weightedSum(weights, inputs, bias) {
  return weights.reduce((sum, weight, index) => sum + weight * inputs[index], bias);
}

function softmax(logits, temperature) {
  const highest = logits.reduce((one, other) => Math.max(one, other), -Infinity);
  const powers = Float64Array.from(logits, (logit) => Math.exp((logit - highest) / temperature));
  const sum = powers.reduce((one, other) => one + other, 0);
  return powers.map((power) => power / sum);
}

/** Rows of scores → their mean. */
export function meanOf(rows) {
  const mean = new Float32Array(rows[0].length);
  for (const row of rows) row.forEach((score, index) => (mean[index] += score / rows.length));
  return mean;
}
