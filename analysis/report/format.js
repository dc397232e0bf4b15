"use strict";
// The data, numbers for readers, elements, and what all charts share: class colours and the classes
// that are switched off. Text goes into the page as text, never as markup.

// Strings come from files and peers: characters that reorder or hide others become visible.
const plain = (text) =>
  text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g, "\ufffd");
const report = JSON.parse(document.getElementById("data").textContent,
  (_, value) => typeof value === "string" ? plain(value) : value);
const classOf = new Map(report.classes.map((entry) => [entry.name, entry]));
// Classes in which a rank stands still; drawn hatched.
const stalled = new Set(["send_queue_full", "no_credit", "receiver_not_ready", "late_peer",
  "wake_up", "send_blocked", "receive_wait"]);

// ---- numbers

function number(value, digits = 3) {
  if (value === null || !isFinite(value)) return "–";
  if (value === 0) return "0";
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value))));
  return value.toLocaleString("en-US", {maximumFractionDigits: Math.min(decimals, 12)});
}

const timeUnits = [[1e9, "s"], [1e6, "ms"], [1e3, "µs"], [1, "ns"]];
function unitFor(ns) {
  return timeUnits.find(([size]) => Math.abs(ns) >= size) || timeUnits[3];
}
// Three digits, so that times in a column compare at a glance.
function time(ns) {
  const [size, unit] = unitFor(ns);
  const value = ns / size;
  if (size === 1) return `${Math.round(value)} ns`;
  return `${Math.abs(value) >= 1000 ? number(value) : value.toPrecision(3)} ${unit}`;
}
function bytes(count) {
  for (const [size, unit] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
    if (count >= size) return `${number(count / size)} ${unit}`;
  }
  return `${count} B`;
}
// Powers of two, as sizes are asked for.
function binarySize(count) {
  for (const [size, unit] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
    if (count >= size) return `${number(count / size)} ${unit}`;
  }
  return `${count} B`;
}
function offBy(predicted, measured) {
  if (!(measured > 0)) return "–";
  const off = 100 * (predicted / measured - 1);
  return `${off < 0 ? "-" : "+"}${Math.abs(off).toFixed(1)} %`;
}
function percent(share) {
  if (share > 0 && share < 0.0005) return "<0.1 %";
  return `${number(100 * share, share >= 0.0995 ? 2 : 1)} %`;
}
function plural(count, noun) {
  return `${count.toLocaleString("en-US")} ${noun}${count === 1 ? "" : "s"}`;
}

// Units as a reader expects them, where terminals get "us": in labels, and in sentences, where they
// stay on the line of their number.
const labelUnits = (text) => text.replace(/\bus\b/g, "µs");
const units = (text) => text.replace(/(\d) (%|[nmu]?s\b|[KMG]?i?B\b)/g, "$1\u00a0$2")
  .replace(/(\d\s?)us\b/g, "$1µs");

// ---- elements

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

// A sentence with its flags set apart, so that they are not broken.
function sentence(text) {
  return text.split(/(--[a-z][a-z0-9-]*(?:[ =]\d[\w]*)?)/).map((part, i) =>
    i % 2 ? element("code", {class: "flag"}, part) : units(part));
}

let lastId = 0;
const freshId = (prefix) => `${prefix}-${++lastId}`;

// Rows of cells (text or elements); cells that are numbers go to the right.
function table(columns, rows, caption) {
  const isNumber = columns.map((_, i) => rows.some((row) => row[i] !== "") && rows.every((row) =>
    typeof row[i] === "string" && /^(–|[-+<]?\d[\d.,]*\s?([%a-zA-Zµ]{1,3}(\/s)?)?)$/.test(row[i])));
  const cell = (tag, value, i) =>
    element(tag, {class: isNumber[i] ? "number" : null, scope: tag === "th" ? "col" : null}, value);
  return element("div", {class: "table", tabindex: "0", role: "region", "aria-label": caption},
    element("table", {},
      element("thead", {}, element("tr", {}, columns.map((name, i) => cell("th", labelUnits(name), i)))),
      element("tbody", {}, rows.map((row) =>
        element("tr", {}, row.map((value, i) => cell("td", value, i)))))));
}

function foldout(title, ...children) {
  return element("details", {}, element("summary", {}, title), ...children);
}

function commandList(commands) {
  return commands.map((command) => element("pre", {class: "command", tabindex: "0"}, command));
}

// A command of words as a shell takes it.
function shellLine(words) {
  return words.map((word) => /^[\w@%+=:,.\/-]+$/.test(word) ? word : `'${word.replace(/'/g, "'\\''")}'`)
    .join(" ");
}

// ---- classes

const fill = (name) => `var(--${name.replace(/_/g, "-")})`;
const ink = (name) => `var(--on-${name.replace(/_/g, "-")})`;
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function swatch(name) {
  const mark = element("span", {class: stalled.has(name) ? "swatch stalled" : "swatch"});
  mark.style.backgroundColor = fill(name);
  return mark;
}

// One set for the whole page: a class that is off is off everywhere.
const hiddenClasses = new Set();
const onChange = [];  // redraws what shows classes
function toggleClass(name) {
  if (!hiddenClasses.delete(name)) hiddenClasses.add(name);
  onChange.forEach((redraw) => redraw());
}
function showAllClasses() {
  hiddenClasses.clear();
  onChange.forEach((redraw) => redraw());
}

// ---- the box beside the pointer

const tip = {
  node: document.getElementById("tip"),
  // `rows` are [key, value]; placed beside the point (x, y) of the window.
  show(x, y, title, rows, note) {
    this.node.replaceChildren(element("strong", {}, title),
      element("dl", {}, rows.map(([key, value]) =>
        element("div", {}, element("dt", {}, key), element("dd", {}, value)))),
      ...(note ? [element("p", {}, note)] : []));
    this.node.hidden = false;
    const box = this.node.getBoundingClientRect();
    const left = x + 16 + box.width > innerWidth ? x - 16 - box.width : x + 16;
    const top = y + 16 + box.height > innerHeight ? y - 12 - box.height : y + 16;
    this.node.style.left = `${Math.max(4, left)}px`;
    this.node.style.top = `${Math.max(4, top)}px`;
  },
  hide() { this.node.hidden = true; },
};
addEventListener("scroll", () => tip.hide(), {passive: true});
addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hide(); });

// ---- drawing when the size or the colours change

// Calls draw(width) now and whenever `node` gets another width.
function onWidth(node, draw) {
  let width = 0;
  new ResizeObserver(() => {
    const now = Math.floor(node.clientWidth);
    if (now === width || now === 0 || document.documentElement.classList.contains("printing")) return;
    width = now;
    draw(width);
  }).observe(node);
}

const onColors = [];  // redraws canvases
const recolor = () => onColors.forEach((redraw) => redraw());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolor);
// Printing is in light colours, with everything unfolded.
let unfolded = [];
function setPrinting(on) {
  if (document.documentElement.classList.contains("printing") === on) return;
  document.documentElement.classList.toggle("printing", on);
  if (on) {
    unfolded = [...document.querySelectorAll("main details:not([open])")];
    unfolded.forEach((node) => { node.open = true; });
    tip.hide();
  } else {
    unfolded.forEach((node) => { node.open = false; });
  }
  recolor();
}
addEventListener("beforeprint", () => setPrinting(true));
addEventListener("afterprint", () => setPrinting(false));
matchMedia("print").addEventListener("change", (event) => setPrinting(event.matches));
