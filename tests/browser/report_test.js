// The HTML report as a reader meets it: opened from a file, with every request but the file's own
// recorded and refused. Screenshots of each look go beside the pages.
"use strict";
const assert = require("node:assert/strict");
const path = require("node:path");
const {after, before, test} = require("node:test");
const {pathToFileURL} = require("node:url");
const {chromium} = require("playwright-core");

const folder = process.env.GWTEST_FOLDER;
const slow = {timeout: 60_000};
let browser;

before(async () => {
  browser = await chromium.launch({
    executablePath: process.env.GWTEST_CHROMIUM,
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
      "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
}, slow);
after(() => browser?.close());

// Opens a page of `folder` and hands it to `look`; then nothing may have been asked of a network and
// nothing may have been complained of.
async function open(name, options, look) {
  const url = pathToFileURL(path.join(folder, name)).href;
  const context = await browser.newContext({viewport: {width: 1280, height: 900}, ...options});
  const [requests, complaints] = [[], []];
  await context.route("**/*", (route) => {
    requests.push(route.request().url());
    return route.request().url() === url ? route.continue() : route.abort();
  });
  const page = await context.newPage();
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  try {
    await page.goto(url);
    await page.waitForFunction(() => document.querySelector("h1"));
    await page.waitForTimeout(200);  // sizes are observed, then charts are drawn
    await look(page);
    assert.deepEqual(complaints, []);
    assert.deepEqual(requests.filter((request) => request !== url), []);
  } finally {
    await context.close();
  }
}

const shot = (page, name) =>
  page.screenshot({path: path.join(folder, `${name}.png`), fullPage: true});

// How many pixels of the canvas have the colour of a class.
function pixelsOf(canvas, name) {
  return canvas.evaluate((node, variable) => {
    const hex = getComputedStyle(document.documentElement).getPropertyValue(variable).trim();
    const want = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
    const copy = Object.assign(document.createElement("canvas"), {width: node.width, height: node.height})
      .getContext("2d", {willReadFrequently: true});
    copy.drawImage(node, 0, 0);
    const {data} = copy.getImageData(0, 0, node.width, node.height);
    let count = 0;
    for (let i = 0; i < data.length; i += 4) {
      if (want.every((value, k) => data[i + k] === value) && data[i + 3] === 255) ++count;
    }
    return count;
  }, `--${name.replace(/_/g, "-")}`);
}

// Scrolling hides what a mouse shows; its event comes with one of the next frames.
async function scrolledTo(element) {
  await element.scrollIntoViewIfNeeded();
  await element.evaluate(() => new Promise(
    (done) => requestAnimationFrame(() => requestAnimationFrame(done))));
}

const viewOf = (canvas) => canvas.evaluate((node) => [Number(node.dataset.fromNs), Number(node.dataset.toNs)]);
const span = ([from, to]) => to - from;

// Contrast of a colour with another as WCAG 2 defines it; both as "rgb(r, g, b)" or "#rrggbb".
function contrast(one, other) {
  const luminance = (color) => {
    const parts = color.startsWith("#") ? [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16))
      : color.match(/[\d.]+/g).slice(0, 3).map(Number);
    const [r, g, b] = parts.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

// Text colours in use, and those of the classes with the text upon them.
async function colorsOf(page) {
  return page.evaluate(() => {
    const root = getComputedStyle(document.documentElement);
    const background = getComputedStyle(document.body).backgroundColor;
    const text = new Set();
    for (const node of document.querySelectorAll("h1, h2, p, a, td, th, dt, dd, summary, button, code")) {
      if (node.textContent.trim() && node.getClientRects().length) text.add(getComputedStyle(node).color);
    }
    const names = JSON.parse(document.getElementById("data").textContent).classes
      .map(({name}) => name.replace(/_/g, "-"));
    const classes = names.map((name) => ({name, fill: root.getPropertyValue(`--${name}`).trim(),
      ink: root.getPropertyValue(`--on-${name}`).trim()}));
    return {background, text: [...text], classes};
  });
}

function assertReadable({background, text, classes}) {
  assert.ok(text.length >= 2, "there are text colours to look at");
  for (const color of text) {
    assert.ok(contrast(color, background) >= 4.5, `${color} on ${background}: ${contrast(color, background)}`);
  }
  assert.equal(new Set(classes.map(({fill}) => fill)).size, classes.length, "a colour for each class");
  for (const {name, fill, ink} of classes) {
    assert.ok(contrast(fill, background) >= 3, `${name} stands out by ${contrast(fill, background)}`);
    assert.ok(contrast(ink, fill) >= 4.5, `text on ${name} stands out by ${contrast(ink, fill)}`);
  }
}

test("what a busy person reads is there, in order", slow, () => open("report.html", {}, async (page) => {
  assert.equal(await page.title(), "All-reduce on four ranks: RDMA against TCP");
  assert.equal(await page.locator("h1").textContent(), await page.title());
  const heads = await page.locator("h2").allTextContents();
  assert.deepEqual(heads, ["What to change", "Answers", "How often should a write ask for a completion?",
    "What does TCP cost instead of RDMA?", "rdma", "tcp"]);
  assert.equal(await page.locator("#findings .findings li").count(), 5);
  assert.match(await page.locator("#findings .findings li").first().innerText(),
    /46 %[\s\S]*rank 2 waits for writes of rank 1[\s\S]*wire · rank 2 · waits for rank 1/);
  assert.match(await page.locator(".problem").first().innerText(), /Rank 3 lost 17 events/);
  assert.match(await page.locator("footer").innerText(), /Licence of d3/);
  await page.locator("footer summary").click();
  assert.match(await page.locator("footer pre").innerText(), /Redistribution and use in source and binary/);
  await shot(page, "light");
}));

test("charts are drawn", slow, () => open("report.html", {}, async (page) => {
  // The first study: a line for each series that goes through its values, with a gap and spreads.
  const line = page.locator("figure.chart").filter({hasText: "Time by signal interval"});
  assert.equal(await line.locator("path.mark").count(), 11, "three series of four, one not measured");
  assert.equal(await line.locator("path.whisker").count(), 11);
  const gap = await line.locator("path.line").nth(2).getAttribute("d");
  assert.equal(gap.match(/M/g).length, 2, "the line breaks where nothing was measured");
  // Bars are as high as their values: 0.92 and 2.82 GB/s.
  const bars = page.locator("figure.chart").filter({hasText: "Bandwidth by size"}).locator(".plot rect");
  const heights = await bars.evaluateAll((nodes) => nodes.map((node) => Number(node.getAttribute("height"))));
  assert.equal(heights.length, 6);
  assert.ok(Math.abs(heights[2] / heights[0] - 2.82 / 0.92) < 0.01);
  // A stacked bar takes the colours of the classes it names.
  const stack = page.locator("figure.chart").filter({hasText: "Where the time goes"}).locator(".plot rect");
  assert.match(await stack.nth(1).getAttribute("style"), /var\(--wire\)/);
  // The model: measured marks beside predicted lines, as far apart as the numbers are.
  assert.equal(await page.locator("figure.model .plot path.line").count(), 6, "two rank counts in three runs");
  const model = page.locator("article.run figure.model").first();
  assert.equal(await model.locator(".plot path.mark").count(), 18);
  const apart = await model.evaluate((node) => {
    const {points} = JSON.parse(document.getElementById("data").textContent).runs[0].model;
    const two = points.filter(({ranks}) => ranks === 2);
    const line = node.querySelector(".plot path.line").getAttribute("d").match(/[\d.]+,[\d.]+/g)
      .map((pair) => Number(pair.split(",")[1]));
    const marks = [...node.querySelectorAll(".plot path.mark")].slice(0, two.length)
      .map((mark) => Number(mark.getAttribute("transform").match(/,([\d.]+)/)[1]));
    // Both axes are logarithmic: a pixel is the same factor everywhere.
    const factor = (line[0] - line.at(-1)) / Math.log(two.at(-1).predicted_us / two[0].predicted_us);
    return Math.max(...two.map(({measured_us, predicted_us}, i) =>
      Math.abs(line[i] - marks[i] - factor * Math.log(measured_us / predicted_us))));
  });
  assert.ok(apart < 0.5, `marks are off by ${apart} pixels`);
  assert.match(await model.locator(".formula").innerText(), /4\.2 µs a message.*within 7 %.*within 9 %/);
  const [measured, predicted] = await model.locator("table").all();
  assert.equal(await measured.locator("tbody tr").count(), 18);
  assert.match(await measured.locator("tbody tr").nth(1).innerText(), /16 KiB\s+ring\s+2\s+[\d.,\s]+[-+][\d.]+ %\s+[-+][\d.]+ %/);
  assert.deepEqual(await predicted.locator("th").allInnerTexts(), ["ranks", "slice", "1 MiB (µs)", "16 MiB (µs)"]);
  assert.match(await predicted.locator("tbody tr").first().innerText(), /2\s+256 KiB\s+209.7\s+3,355/);
  // A bar for the critical path and each rank, its classes in the proportion of their times.
  const run = page.locator("article.run").first();
  const rows = run.locator(".bars").first().locator(".bar-row");
  assert.deepEqual(await rows.locator(".row-name").evaluateAll((nodes) => nodes.map((n) => n.firstChild.data)),
    ["critical path", "rank 0", "rank 1", "rank 2", "rank 3"]);
  const off = await page.evaluate(() => {
    const {class_ns: times} = JSON.parse(document.getElementById("data").textContent).runs[0].totals.ranks[1];
    const row = document.querySelectorAll("article.run .bar-row")[2];
    const width = (name) => Number(row.querySelector(`[data-class=${name}] rect`).getAttribute("width"));
    return Math.abs(width("wire") / width("reducing") - times.wire / times.reducing);
  });
  assert.ok(off < 0.05, `widths are off by ${off}`);
  for (const canvas of await page.locator("canvas").all()) {
    assert.ok(await pixelsOf(canvas, "reducing") > 500);
  }
}));

test("the timeline zooms, moves and explains", slow, () => open("report.html", {}, async (page) => {
  const figure = page.locator("article.run figure.timeline").first();
  const canvas = figure.locator("canvas");
  await scrolledTo(canvas);
  const whole = await viewOf(canvas);
  const box = await canvas.boundingBox();
  const [x, y] = [box.x + 124 + (box.width - 132) / 4, box.y + 34 + 10];
  await page.mouse.move(x, y);
  await page.mouse.wheel(0, -400);
  const near = await viewOf(canvas);
  assert.ok(span(near) < span(whole) * 0.7, "the wheel zooms in");
  const at = ([from, to]) => from + (to - from) / 4;
  assert.ok(Math.abs(at(near) - at(whole)) < span(whole) * 0.02, "around the pointer");

  await page.mouse.down();
  await page.mouse.move(x + 200, y, {steps: 4});
  await page.mouse.up();
  const dragged = await viewOf(canvas);
  assert.ok(dragged[0] < near[0], "dragging to the right shows what was before");
  assert.ok(Math.abs(span(dragged) - span(near)) <= 2);

  await figure.getByRole("button", {name: "Zoom out"}).click();
  assert.ok(Math.abs(span(await viewOf(canvas)) / span(near) - 2) < 0.01);
  await figure.getByRole("button", {name: "Show the whole operation"}).click();
  assert.deepEqual(await viewOf(canvas), whole);

  const select = figure.getByLabel("Operation", {exact: true});
  await select.selectOption({index: 3});
  const third = await viewOf(canvas);
  assert.ok(third[1] < whole[0] || third[0] > whole[1], "another operation is elsewhere");
  await figure.getByRole("button", {name: "Next operation"}).click();
  assert.ok((await viewOf(canvas))[0] > third[0]);
  await select.selectOption({index: 0});
  assert.ok(span(await viewOf(canvas)) > 5 * span(third), "all operations");

  // What the box says is what the data have at that place.
  await select.selectOption({index: 1});
  await page.mouse.move(box.x + 124 + (box.width - 132) / 2, y);
  const tip = await page.locator("#tip").innerText();
  const expected = await canvas.evaluate((node) => {
    const operation = JSON.parse(document.getElementById("data").textContent).runs[0].operations[0];
    const middle = (Number(node.dataset.fromNs) + Number(node.dataset.toNs)) / 2;
    const {intervals} = operation.ranks[0];
    return intervals.class[intervals.end_ns.findIndex((end) => end > middle)];
  });
  assert.equal(tip.split("\n")[0].replace(/[ -]/g, "_"), expected);
  assert.match(tip, /duration[\s\S]*rank\s+0/);

  // Arrows appear when few writes are in view.
  await figure.getByRole("button", {name: "Show the whole operation"}).click();
  assert.match(await figure.locator(".status").innerText(), /writes: zoom in to see them/);
  for (let i = 0; i < 5; ++i) await figure.getByRole("button", {name: "Zoom in"}).click();
  assert.match(await figure.locator(".status").innerText(), /\d writes?$/);
  const withArrows = await canvas.evaluate((node) => node.toDataURL());
  await figure.getByLabel("writes").uncheck();
  assert.notEqual(await canvas.evaluate((node) => node.toDataURL()), withArrows);
  const withPath = await canvas.evaluate((node) => node.toDataURL());
  await figure.getByLabel("critical path").uncheck();
  assert.notEqual(await canvas.evaluate((node) => node.toDataURL()), withPath);
  await figure.getByLabel("writes").check();
  await figure.getByLabel("critical path").check();
  await scrolledTo(figure);
  await page.screenshot({path: path.join(folder, "zoomed.png")});
}));

test("a class that is switched off is off in bars and timelines", slow, () => open("report.html", {}, async (page) => {
  const run = page.locator("article.run").first();
  const canvas = run.locator("canvas");
  const toggle = run.locator("button[data-class=reducing]");
  const pieces = page.locator(".piece[data-class=reducing]");
  const others = await page.locator(".piece[data-class=wire]").count();
  assert.ok(await pieces.count() >= 15);
  assert.ok(await pixelsOf(canvas, "reducing") > 500);
  assert.equal(await toggle.getAttribute("aria-pressed"), "true");
  await toggle.click();
  assert.equal(await toggle.getAttribute("aria-pressed"), "false");
  assert.equal(await pieces.count(), 0, "in no bar of any run");
  assert.equal(await pixelsOf(canvas, "reducing"), 0);
  assert.ok(await pixelsOf(canvas, "wire") > 500);
  assert.equal(await page.locator(".piece[data-class=wire]").count(), others);
  await run.getByRole("button", {name: "show all"}).click();
  assert.ok(await pieces.count() >= 15);
  assert.ok(await pixelsOf(canvas, "reducing") > 500);
}));

test("the keyboard reaches and works all controls", slow, () => open("report.html", {}, async (page) => {
  const reached = new Set();
  for (let i = 0; i < 400; ++i) {
    await page.keyboard.press("Tab");
    const name = await page.evaluate(() => {
      const node = document.activeElement;
      if (node === document.body) return null;
      node.dataset.reached = "true";
      return node.tagName + (getComputedStyle(node).outlineStyle === "none" ? " without a mark" : "");
    });
    if (name === null && i > 20) break;
    reached.add(name);
  }
  for (const tag of ["A", "BUTTON", "SELECT", "INPUT", "CANVAS", "SUMMARY"]) {
    assert.ok(reached.has(tag), `${tag} among ${[...reached]}`);
  }
  assert.deepEqual([...reached].filter((name) => name?.includes("without")), [], "focus is always seen");
  const missed = await page.locator("button:visible, select:visible, input:visible, canvas:visible, a:visible")
    .evaluateAll((nodes) => nodes.filter((node) => !node.dataset.reached).map((node) => node.outerHTML));
  assert.deepEqual(missed, []);

  const canvas = page.locator("article.run canvas").first();
  await canvas.focus();
  const whole = await viewOf(canvas);
  await page.keyboard.press("+");
  const near = await viewOf(canvas);
  assert.ok(Math.abs(span(near) / span(whole) - 0.5) < 0.01);
  await page.keyboard.press("ArrowRight");
  assert.ok((await viewOf(canvas))[0] > near[0]);
  await page.keyboard.press("0");
  assert.deepEqual(await viewOf(canvas), whole);
  await page.keyboard.press("ArrowDown");
  const status = page.locator("article.run figure.timeline .status").first();
  assert.match(await status.innerText(), /^rank 0, [a-z -]+: [\d.]+ [µn]s$/);
  await page.keyboard.press("ArrowDown");
  assert.match(await status.innerText(), /^rank 1, /);
  const before = await page.locator("#tip").innerText();
  await page.keyboard.press(".");
  assert.notEqual(await page.locator("#tip").innerText(), before);
  await page.keyboard.press("Escape");
  assert.equal(await page.locator("#tip").isVisible(), false);

  await page.locator("article.run button[data-class=wire]").first().focus();
  await page.keyboard.press("Space");
  assert.equal(await page.locator(".piece[data-class=wire]").count(), 0);
}));

test("light and dark are both readable, and differ", slow, async () => {
  let light;
  await open("report.html", {colorScheme: "light"}, async (page) => {
    light = await colorsOf(page);
    assertReadable(light);
  });
  await open("report.html", {colorScheme: "dark"}, async (page) => {
    const dark = await colorsOf(page);
    assertReadable(dark);
    assert.notEqual(dark.background, light.background);
    assert.ok(contrast(dark.background, light.background) > 10);
    const canvas = page.locator("article.run canvas").first();
    assert.ok(await pixelsOf(canvas, "wire") > 500, "the timeline is in the dark colours");
    await shot(page, "dark");
    // The reader's system changes while the page is open.
    await page.emulateMedia({colorScheme: "light"});
    await page.waitForTimeout(100);
    assert.ok(await pixelsOf(canvas, "wire") > 500, "and follows");
    assert.equal((await colorsOf(page)).background, light.background);
  });
});

test("paper has everything, in light colours", slow, () => open("report.html", {colorScheme: "dark"}, async (page) => {
  await page.emulateMedia({media: "print", colorScheme: "dark"});
  await page.waitForTimeout(100);
  const colors = await colorsOf(page);
  assert.equal(colors.background, "rgb(255, 255, 255)");
  assertReadable(colors);
  for (const question of ["How often should a write", "What does TCP cost"]) {
    assert.ok(await page.locator("article.study h2").filter({hasText: question}).isVisible());
  }
  for (const study of await page.locator("article.study").all()) {
    assert.ok(await study.locator("table").first().isVisible());
    assert.ok(await study.locator("svg").first().isVisible());
    assert.ok(await study.locator("pre.command").first().isVisible());
  }
  assert.equal(await page.locator("main details:not([open])").count(), 0, "nothing stays folded");
  assert.equal(await page.locator(".tools:visible, nav:visible").count(), 0, "no controls");
  assert.ok(await pixelsOf(page.locator("article.run canvas").first(), "wire") > 500);
  await shot(page, "print");
  await page.pdf({path: path.join(folder, "print.pdf"), format: "A4", printBackground: true});
  await page.emulateMedia({media: "screen", colorScheme: "dark"});
  await page.waitForTimeout(100);
  assert.ok(await page.locator("main details:not([open])").count() > 5, "folded again afterwards");
}));

test("a narrow window shows all without scrolling sideways", slow, () =>
  open("report.html", {viewport: {width: 400, height: 800}}, async (page) => {
    const widths = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(widths[0] <= widths[1], `${widths[0]} pixels in ${widths[1]}`);
    await shot(page, "narrow");
    // Wider again, charts take the room.
    const chart = page.locator("figure.chart svg").nth(4);
    const before = (await chart.boundingBox()).width;
    await page.setViewportSize({width: 900, height: 800});
    await page.waitForTimeout(200);
    assert.ok((await page.locator("article.run .bars svg").first().boundingBox()).width > 700, `before: ${before}`);
  }));

test("text of peers stays text", slow, () => open("hostile.html", {}, async (page) => {
  assert.equal(await page.evaluate(() => window.injected), undefined);
  assert.match(await page.title(), /<\/script><script>window\.injected=1/);
  assert.equal(await page.locator("img").count(), 0);
  assert.equal(await page.locator("script").count(), 3);
  await page.locator("article.run summary").filter({hasText: "Ranks and machine"}).first().click();
  assert.match(await page.locator("article.run td:visible").filter({hasText: "injected"}).first().innerText(), /<img src=x/);
  assert.doesNotMatch(await page.locator("body").innerText(), /[\u202e\u001b]/);
  const canvas = page.locator("canvas").first();
  await scrolledTo(canvas);
  const box = await canvas.boundingBox();
  await page.mouse.move(box.x + box.width / 2, box.y + 40);
  await page.locator("#tip").waitFor();
  assert.equal(await page.evaluate(() => window.injected), undefined);
  const widths = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(widths[0] <= widths[1], "long texts break");
}));

test("a large recording opens fast and says what is left out", slow, () => open("large.html", {}, async (page) => {
  assert.match(await page.locator("article.run .notes").innerText(), /Timelines are here of .* of 300/);
  const canvas = page.locator("canvas");
  assert.ok(await pixelsOf(canvas, "wire") > 500);
  await page.locator("figure.timeline select").selectOption("-1");
  const ms = await canvas.evaluate((node) => {
    const begin = performance.now();
    for (let i = 0; i < 10; ++i) {
      node.dispatchEvent(new KeyboardEvent("keydown", {key: i % 2 ? "-" : "+", bubbles: true}));
    }
    return (performance.now() - begin) / 10;
  });
  assert.ok(ms < 400, `a frame takes ${ms} ms`);
  await shot(page, "large");
}));

test("what was measured adds up and is drawn", slow, () => open("measured/report.html", {}, async (page) => {
  const heads = await page.locator("h2").allTextContents();
  assert.ok(heads.includes("rec-rdma") && heads.includes("rec-tcp"), `${heads}`);
  const runs = await page.evaluate(() => JSON.parse(document.getElementById("data").textContent).runs);
  for (const {name, totals} of runs) {
    const sums = [totals.critical_path, ...totals.ranks].map(({total_ns: all, class_ns: classes}) =>
      Object.values(classes).reduce((sum, ns) => sum + ns, 0) / all);
    for (const sum of sums) assert.ok(Math.abs(sum - 1) < 0.02, `${name}: ${sums}`);
  }
  assert.equal(await page.locator("figure.timeline canvas").count(), 2, "a timeline for each run");
  assert.ok(await page.locator("figure").count() >= 4, "and bars");
  await shot(page, "measured");
}));

test("a study that was measured says on what", slow, () => open("studied/report.html", {}, async (page) => {
  const text = await page.locator("body").innerText();
  for (const part of ["Do small writes gain", "In theory:", "Of one round", "Measured with", "urxe0", "Linux", "gradwire bench allreduce"]) {
    assert.ok(text.includes(part), part);
  }
  assert.equal(await page.locator("table").first().locator("tbody tr").count(), 4);
  await shot(page, "studied");
}));

test("a report of nothing is a page", slow, () => open("empty.html", {}, async (page) => {
  assert.equal(await page.locator("h1").textContent(), "Nothing measured");
}));
