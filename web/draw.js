/* Answers as pictures: a table of bars, the valence-arousal plane, scores over time. Numbers stand there as text. */

const SVG = "http://www.w3.org/2000/svg";
const MOST_LINES = 6; // more cannot be told apart
const TOP = 3;
const QUADRANTS = [["tense", 0.25, 0.06], ["elated", 0.75, 0.06], ["gloomy", 0.25, 0.97], ["calm", 0.75, 0.97]];

/** Shows one answer in `place`, after the elements `first`. */
export function drawAnswer(place, tasks, { mean, rows, spans }, first = []) {
  const parts = [...first];
  for (const task of tasks) {
    const scores = mean.subarray(task.start, task.end);
    const peaks = rows.length > 1 ? highestOf(task, rows) : null;
    if (task.name) parts.push(element("h3", { textContent: task.name }));
    if (!hasPlane(task)) parts.push(topLabels(task, scores));
    parts.push(bars(task, scores, peaks));
    if (hasPlane(task)) parts.push(plane(task, scores, rows));
    if (rows.length > 1) parts.push(timeline(task, rows, spans));
  }
  place.replaceChildren(...parts);
}

/** Of each label its highest score in any window. */
function highestOf(task, rows) {
  return task.labels.map((_, index) => Math.max(...rows.map((row) => row[task.start + index])));
}

/** The labels by their scores, highest first. */
export function ranking({ labels }, scores) {
  return labels.map((label, index) => ({ label, score: scores[index] })).sort((one, other) => other.score - one.score);
}

/** A label without the task's name, which precedes it in a multitask model. */
export function shown(label) {
  return label.slice(label.indexOf("/") + 1).replaceAll("_", " ");
}

function topLabels(task, scores) {
  const list = element("ol", { className: "top" });
  for (const { label, score } of ranking(task, scores).slice(0, Math.min(TOP, task.labels.length))) {
    const item = element("li");
    item.append(element("strong", { textContent: shown(label) }), ` ${score.toFixed(3)}`);
    list.append(item);
  }
  return list;
}

/** One row per label in the task's order; with windows, a mark at the highest window. */
function bars(task, scores, peaks) {
  const table = element("table", { className: "bars" });
  const [low, high] = task.range;
  const kind = task.isClassifier ? "Probability of each label" : `Score of each label, ${low} to ${high}`;
  const windows = peaks ? "; the mark shows the highest window" : "";
  table.append(element("caption", { textContent: kind + windows }));
  const best = ranking(task, scores)[0].label;
  const body = element("tbody");
  task.labels.forEach((label, index) => {
    const row = element("tr", { className: task.isClassifier && label === best ? "best" : "" });
    row.dataset.label = label;
    row.dataset.score = scores[index];
    const track = element("div", { className: "track" });
    track.append(barOf(task, scores[index], "bar", "width"));
    if (peaks) track.append(barOf(task, peaks[index], "peak", "left"));
    const cell = element("td", { className: "drawn" });
    cell.setAttribute("aria-hidden", "true");
    cell.append(track);
    row.append(element("th", { scope: "row", textContent: shown(label) }), cell);
    row.append(element("td", { className: "value", textContent: scores[index].toFixed(3) }));
    body.append(row);
  });
  table.append(body);
  return table;
}

function barOf({ range: [low, high] }, score, name, side) {
  const bar = element("div", { className: name });
  bar.style[side] = `${(100 * Math.min(1, Math.max(0, (score - low) / (high - low)))).toFixed(1)}%`;
  return bar;
}

/** True if a regression's labels are valence and arousal, in either order. */
export function hasPlane({ labels, isClassifier }) {
  const names = labels.map((label) => shown(label).toLowerCase()).sort();
  return !isClassifier && names.join() === "arousal,valence";
}

/** Valence to the right, arousal upwards; a dot for the recording, faint ones for its windows in their order. */
function plane(task, scores, rows) {
  const [low, high] = task.range;
  const names = task.labels.map((label) => shown(label).toLowerCase());
  const [valence, arousal] = [names.indexOf("valence"), names.indexOf("arousal")];
  const [side, left, top] = [200, 30, 10];
  const at = (values) => {
    const [x, y] = [valence, arousal].map((index) => (values[index] - low) / (high - low));
    return [left + side * x, top + side * (1 - y)];
  };
  const said = `Valence ${scores[valence].toFixed(2)}, arousal ${scores[arousal].toFixed(2)}, from ${low} to ${high}`;
  const viewBox = `0 0 ${left + side + 10} ${top + side + 24}`;
  const drawing = drawn("svg", { class: "plane", viewBox, role: "img", "aria-label": said });
  const [middleX, middleY] = [left + side / 2, top + side / 2];
  drawing.append(
    drawn("rect", { class: "area", x: left, y: top, width: side, height: side, rx: 6 }),
    drawn("path", { class: "cross", d: `M${middleX} ${top}V${top + side}M${left} ${middleY}H${left + side}` }),
  );
  for (const [word, x, y] of QUADRANTS) {
    drawing.append(words(word, { class: "quadrant", x: left + side * x, y: top + side * y }));
  }
  drawing.append(
    words("Valence →", { class: "axis", x: middleX, y: top + side + 17 }),
    words("Arousal →", { class: "axis", transform: `translate(18 ${middleY}) rotate(-90)` }),
  );
  if (rows.length > 1) {
    const windows = rows.map((row) => at(row.subarray(task.start, task.end)));
    drawing.append(drawn("polyline", { class: "path", points: windows.map((place) => place.join()).join(" ") }));
    drawing.append(...windows.map(([cx, cy]) => drawn("circle", { class: "window", cx, cy, r: 3 })));
  }
  const [cx, cy] = at(scores);
  drawing.append(drawn("circle", { class: "mean", cx, cy, r: 7 }));
  return drawing;
}

/** A line per label over the middle of each window, of the labels with the highest windows. */
export function timeline(task, rows, spans) {
  const [low, high] = task.range;
  const highest = highestOf(task, rows);
  const order = highest.map((_, index) => index).sort((one, other) => highest[other] - highest[one]);
  const kept = order.slice(0, MOST_LINES).sort((one, other) => one - other);
  const [width, height, left, bottom] = [600, 180, 34, 22];
  const end = spans.at(-1)[1];
  const begin = spans[0][0];
  const x = (seconds) => left + ((width - left - 6) * (seconds - begin)) / (end - begin || 1);
  const y = (score) => 8 + (height - bottom - 8) * (1 - (score - low) / (high - low));
  const names = kept.map((index) => shown(task.labels[index])).join(", ");
  const said = `Scores over time: ${names}`;
  const viewBox = `0 0 ${width} ${height}`;
  const drawing = drawn("svg", { class: "timeline", viewBox, role: "img", "aria-label": said });
  for (const share of [0, 0.5, 1]) {
    const score = low + share * (high - low);
    drawing.append(drawn("path", { class: "grid", d: `M${left} ${y(score)}H${width - 6}` }));
    const tick = { class: "tick", x: left - 6, y: y(score) + 4, "text-anchor": "end" };
    drawing.append(words(String(+score.toFixed(2)), tick));
  }
  for (const [anchor, seconds] of [["start", begin], ["end", end]]) {
    const tick = { class: "tick", x: x(seconds), y: height - 4, "text-anchor": anchor };
    drawing.append(words(`${seconds.toFixed(1)} s`, tick));
  }
  const legend = element("ul", { className: "legend" });
  kept.forEach((index, number) => {
    const points = rows.map((row, place) => {
      const middle = (spans[place][0] + spans[place][1]) / 2;
      return `${x(middle).toFixed(1)},${y(row[task.start + index]).toFixed(1)}`;
    });
    drawing.append(drawn("polyline", { class: `line line-${number}`, points: points.join(" ") }));
    const item = element("li");
    item.append(element("span", { className: `swatch line-${number}` }), shown(task.labels[index]));
    legend.append(item);
  });
  const figure = element("figure", { className: "over-time" });
  figure.append(element("figcaption", { textContent: "Over time" }), drawing, legend);
  return figure;
}

export function element(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}

export function drawn(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

export function words(text, attributes) {
  const made = drawn("text", { "text-anchor": "middle", ...attributes });
  made.textContent = text;
  return made;
}
