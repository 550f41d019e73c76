// The page: a photo goes to the server, what it found comes back, is drawn and listed.

import { colour, draw } from "./draw.js";
import { prepare } from "./picture.js";

const byId = (id) => document.getElementById(id);
const page = document.body;
const MOST_NAMES = 40; // on a photo, unless they are asked for
const url = `v1/models/${encodeURIComponent(page.dataset.model)}:image`;
let shown = null; // { bitmap, answer, seconds } of the photo on the page
let namesAreAsked = false; // whether the person has said if names are to be drawn
let latest = 0; // number of the photo asked for last: answers to earlier ones come too late

async function look(file) {
  const number = ++latest;
  say("busy", `Looking at ${file.name || "the photo"} …`);
  try {
    const { body, bitmap } = await prepare(file).catch(() => {
      throw new Error("This browser cannot read that file as a photo.");
    });
    const start = performance.now();
    const answer = await ask(body);
    if (number !== latest) return;
    shown = { bitmap, answer, seconds: (performance.now() - start) / 1000 };
    paint(answer);
    show();
  } catch (error) {
    if (number === latest) fail(error);
  }
}

async function ask(body) {
  const response = await fetch(url, { method: "POST", body }).catch(() => {
    throw new Error("The server cannot be reached.");
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || `The server answered ${response.status}.`);
  return answer;
}

// Gives every entry its colour: that of its class, or where there are masks, one of its own.
function paint({ detections, classes }) {
  for (const [i, entry] of (detections ?? classes).entries()) entry.colour = colour(entry.mask ? i : entry.class);
}

function show() {
  const { answer, seconds, bitmap } = shown;
  byId("figure").hidden = false;
  byId("controls").hidden = !answer.detections;
  const time = `${seconds.toFixed(2)} s`;
  if (!answer.detections) {
    list(answer.classes, false);
    draw(byId("canvas"), bitmap, [], {});
    const best = answer.classes[0];
    say("done", best ? `${best.name} (${best.score.toFixed(3)}), in ${time}.` : `No class, in ${time}.`);
    return;
  }
  const smallest = Number(byId("score").value);
  byId("score-value").textContent = smallest.toFixed(2);
  const found = answer.detections.filter((detection) => detection.score >= smallest);
  if (!namesAreAsked) byId("labels").checked = found.length <= MOST_NAMES;
  list(found, true);
  redraw(found, null);
  const rest = answer.detections.length - found.length;
  const below = rest ? ` ${rest} more below ${smallest.toFixed(2)}.` : "";
  say("done", `${found.length} ${found.length === 1 ? "object" : "objects"}, in ${time}.${below}`);
}

function redraw(found, chosen) {
  draw(byId("canvas"), shown.bitmap, found, { names: byId("labels").checked, chosen });
}

function list(entries, withBoxes) {
  byId("found").replaceChildren(...entries.map((entry) => {
    const item = make(withBoxes ? "button" : "div", "item");
    const swatch = make("span", "swatch");
    swatch.style.background = entry.colour;
    item.append(swatch, make("span", "name", entry.name), make("span", "value", entry.score.toFixed(3)));
    if (withBoxes) {
      item.type = "button";
      for (const event of ["pointerenter", "focus"]) item.addEventListener(event, () => redraw(entries, entry));
      for (const event of ["pointerleave", "blur"]) item.addEventListener(event, () => redraw(entries, null));
    } else {
      const meter = make("meter");
      meter.value = entry.score;
      meter.setAttribute("aria-hidden", "true");
      item.append(meter);
    }
    const line = make("li");
    line.append(item);
    return line;
  }));
}

function fail(error) {
  shown = null;
  byId("figure").hidden = true;
  byId("controls").hidden = true;
  byId("found").replaceChildren();
  say("error", error.message);
}

function say(state, text) {
  page.dataset.state = state;
  byId("status").textContent = text;
}

function make(tag, kind = "", text = "") {
  const element = document.createElement(tag);
  element.className = kind;
  element.textContent = text;
  return element;
}

byId("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = ""; // the same file may be picked again
  if (file) look(file);
});
byId("score").addEventListener("input", () => shown && show());
byId("labels").addEventListener("change", () => {
  namesAreAsked = true;
  if (shown) show();
});

const drop = byId("drop");
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) look(file);
});
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) look(file);
});
