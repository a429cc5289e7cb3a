/* Events on a time line and as a list that plays them, and whether a clip is a burst at all. */

import { drawn, element, hasPlane, ranking, shown, words } from "./draw.js";

const [WIDTH, HEIGHT, EDGE] = [600, 54, 6];

/** A row of scores in words: "Amusement 0.31"; several tasks one after the other. */
export function heardIn(tasks, scores) {
  const heard = tasks.map((task) => {
    const ranked = ranking(task, scores.subarray(task.start, task.end)).slice(0, hasPlane(task) ? 2 : 1);
    return ranked.map(({ label, score }) => `${shown(label)} ${score.toFixed(2)}`).join(", ");
  });
  return heard.join(", ");
}

/** A paragraph that states whether a `score` reaches the check, { threshold, perHour }. */
export function burstNote(score, check) {
  const isBurst = score >= check.threshold;
  const verdict = isBurst ? "Probably a vocal burst" : "Probably not a vocal burst: the scores are meaningless";
  const said = `${verdict} (burst score ${score.toFixed(3)}, limit ${check.threshold.toFixed(3)}).`;
  const note = element("p", { className: isBurst ? "burst" : "burst rejected", textContent: said });
  note.dataset.burst = score;
  return note;
}

/** A section of events, [{ start, end, detection, scores, burst }] over `span` seconds; `play(event)` null: no sound. */
export function eventsSection(tasks, events, span, check, play) {
  const section = element("section", { className: "events" });
  const title = element("h3", { textContent: events.length ? `Events: ${events.length}` : "No vocal bursts found" });
  section.append(title);
  if (!events.length) return section;
  section.append(line(tasks, events, span, play), list(tasks, events, check, play));
  return section;
}

function line(tasks, events, [begin, end], play) {
  const x = (seconds) => EDGE + ((WIDTH - 2 * EDGE) * (seconds - begin)) / (end - begin || 1);
  const label = `${events.length} events from ${begin.toFixed(1)} to ${end.toFixed(1)} s; listed below`;
  const viewBox = `0 0 ${WIDTH} ${HEIGHT}`;
  const drawing = drawn("svg", { class: "event-line", viewBox, role: "img", "aria-label": label });
  drawing.append(drawn("path", { class: "grid", d: `M${EDGE} 34H${WIDTH - EDGE}` }));
  for (const [anchor, seconds] of [["start", begin], ["end", end]]) {
    const tick = { x: x(seconds), y: HEIGHT - 2, "text-anchor": anchor };
    drawing.append(words(`${seconds.toFixed(1)} s`, tick));
  }
  let free = -Infinity; // a name that would touch the one before it is left to the list
  for (const event of events) {
    const [from, to] = [x(event.start), x(event.end)];
    const bar = drawn("rect", { class: "event-bar", x: from, y: 22, width: Math.max(2, to - from), height: 16, rx: 2 });
    if (play) bar.addEventListener("click", () => play(event)); // by keyboard: the list's buttons
    const name = nameOf(tasks, event.scores);
    const width = 6.2 * name.length;
    const left = Math.min(Math.max(EDGE, from), WIDTH - EDGE - width);
    if (left > free) {
      drawing.append(words(name, { class: "name", x: left, y: 15, "text-anchor": "start" }));
      free = left + width + 6;
    }
    drawing.append(bar);
  }
  return drawing;
}

function nameOf(tasks, scores) {
  const classes = tasks.find((task) => task.isClassifier) ?? tasks[0];
  return shown(ranking(classes, scores.subarray(classes.start, classes.end))[0].label);
}

function list(tasks, events, check, play) {
  const items = element("ol", { className: "event-list" });
  for (const event of events) {
    const { start, end, detection, scores, burst } = event;
    const item = element("li");
    Object.assign(item.dataset, { start, end, detection, scores: [...scores].join() });
    const times = `${start.toFixed(2)} to ${end.toFixed(2)} s`;
    const isRejected = check && burst !== null && burst < check.threshold;
    const doubt = isRejected ? "; probably not a vocal burst" : "";
    const said = `${times}: ${heardIn(tasks, scores)}${doubt}`;
    if (burst !== null) item.dataset.burst = burst;
    if (play) {
      const button = element("button", { type: "button", className: "event" });
      const sign = element("span", { textContent: "▶ " });
      sign.setAttribute("aria-hidden", "true");
      button.append(sign, element("span", { className: "unseen", textContent: "Play " }), said);
      button.addEventListener("click", () => play(event));
      item.append(button);
    } else {
      item.append(said);
    }
    items.append(item);
  }
  return items;
}
