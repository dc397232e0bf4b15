// The timeline of a run: a lane per rank, its intervals by class, writes as arrows when few are in
// view, and the critical path as a line that runs along the lanes and changes between them.

const arrowWidth = 16;      // pixels of the plot for each arrow; with more, none is drawn
const minLabelWidth = 64;   // pixels of an interval that is named inside
const minSpan = 20;         // ns in view at least

class Timeline {
  constructor(run) {
    this.run = run;
    this.detailed = run.operations.filter(({ranks}) => ranks.some(({intervals}) => intervals.class.length));
    this.ranks = [...new Set(this.detailed.flatMap(({ranks}) => ranks.map(({rank}) => rank)))]
      .sort((a, b) => a - b);
    this.laneOf = new Map(this.ranks.map((rank, i) => [rank, i]));
    this.lanes = this.ranks.map((rank) => this.collect(rank));
    this.flows = this.collectFlows();
    this.begin = d3.min(this.detailed, (operation) => operation.begin_ns);
    this.end = d3.max(this.detailed, (operation) => operation.end_ns);
    this.picked = null;  // {lane, i}: the interval the keyboard is on
    this.showsPath = true;
    this.showsWrites = true;
    this.build();
    this.chooseOperation(this.typical());
  }

  // All intervals of a rank, in order of time.
  collect(rank) {
    const lane = {begin: [], end: [], name: [], peer: [], operation: []};
    for (const operation of this.detailed) {
      const times = operation.ranks.find((entry) => entry.rank === rank);
      if (!times) continue;
      const {intervals} = times;
      for (let i = 0; i < intervals.class.length; ++i) {
        lane.begin.push(intervals.begin_ns[i]);
        lane.end.push(intervals.end_ns[i]);
        lane.name.push(intervals.class[i]);
        lane.peer.push(intervals.peer[i]);
        lane.operation.push(operation);
      }
    }
    return lane;
  }

  collectFlows() {
    const {from, to, posted_ns, arrived_ns, bytes: sizes} = this.run.flows;
    return d3.range(from.length).map((i) => ({from: this.laneOf.get(from[i]), to: this.laneOf.get(to[i]),
      posted: posted_ns[i], arrived: arrived_ns[i], bytes: sizes[i]}))
      .filter((flow) => flow.from !== undefined && flow.to !== undefined)
      .sort((a, b) => a.posted - b.posted);
  }

  // The operation of median length.
  typical() {
    const sorted = [...this.detailed].sort((a, b) => (a.end_ns - a.begin_ns) - (b.end_ns - b.begin_ns));
    return sorted[Math.floor((sorted.length - 1) / 2)];
  }

  // ---- the elements

  build() {
    const helpId = freshId("keys");
    this.select = element("select", {"aria-label": "Operation", onchange: () => {
      const i = Number(this.select.value);
      if (i < 0) this.showAll(); else this.chooseOperation(this.detailed[i]);
    }}, element("option", {value: "-1"}, `All (${plural(this.detailed.length, "operation")})`),
      this.detailed.map((operation, i) => element("option", {value: String(i)},
        `#${operation.number}  ${operation.what}  ${time(operation.end_ns - operation.begin_ns)}`)));
    const key = (label) => element("kbd", {}, label);
    const button = (label, name, onclick) =>
      element("button", {type: "button", "aria-label": name, title: name, onclick}, label);
    const check = (label, key) => element("label", {class: "check"}, element("input", {type: "checkbox",
      checked: true, onchange: (event) => { this[key] = event.target.checked; this.draw(); }}), label);
    this.canvas = element("canvas", {tabindex: "0", role: "application", "aria-roledescription": "timeline",
      "aria-describedby": helpId});
    this.status = element("p", {class: "status", role: "status", "aria-live": "polite"});
    this.figure = element("figure", {class: "timeline"},
      element("figcaption", {}, "Timeline"),
      element("div", {class: "tools screen", role: "group", "aria-label": "View of the timeline"},
        button("‹", "Previous operation", () => this.step(-1)), this.select,
        button("›", "Next operation", () => this.step(1)),
        element("span", {class: "gap"}),
        button("+", "Zoom in", () => this.zoom(0.5)), button("−", "Zoom out", () => this.zoom(2)),
        button("←", "Earlier", () => this.pan(-0.25)), button("→", "Later", () => this.pan(0.25)),
        button("fit", "Show the whole operation", () => this.fit()),
        element("span", {class: "gap"}),
        check("critical path", "showsPath"), check("writes", "showsWrites")),
      this.canvas, this.status,
      element("p", {class: "hint screen", id: helpId}, "Wheel or ", key("+"), " ", key("−"),
        " zoom, dragging or ", key("←"), " ", key("→"), " move, ", key("0"), " shows the whole operation; ",
        key("↑"), " ", key("↓"), " choose a rank, ", key(","), " ", key("."), " an interval."));
    this.listen();
    onWidth(this.figure, () => this.draw());
    onChange.push(() => this.draw());
    onColors.push(() => this.draw());
  }

  listen() {
    const {canvas} = this;
    canvas.addEventListener("wheel", (event) => this.onWheel(event), {passive: false});
    canvas.addEventListener("dblclick", () => this.fit());
    canvas.addEventListener("keydown", (event) => this.onKey(event));
    canvas.addEventListener("blur", () => tip.hide());
    let dragged = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      dragged = event.offsetX;
      canvas.setPointerCapture(event.pointerId);
      canvas.classList.add("dragging");
    });
    canvas.addEventListener("pointermove", (event) => {
      if (dragged === null) return this.hover(event);
      this.pan((dragged - event.offsetX) / this.plotWidth());
      dragged = event.offsetX;
      tip.hide();
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, () => { dragged = null; canvas.classList.remove("dragging"); });
    }
    canvas.addEventListener("pointerleave", () => tip.hide());
  }

  // ---- what is in view

  chooseOperation(operation) {
    const margin = Math.max(1, (operation.end_ns - operation.begin_ns) * 0.015);
    this.operation = operation;
    this.select.value = String(this.detailed.indexOf(operation));
    this.picked = null;
    this.show(operation.begin_ns - margin, operation.end_ns + margin);
  }
  showAll() {
    const margin = (this.end - this.begin) * 0.01 + 1;
    this.operation = null;
    this.select.value = "-1";
    this.show(this.begin - margin, this.end + margin);
  }
  fit() { if (this.operation) this.chooseOperation(this.operation); else this.showAll(); }
  step(by) {
    const i = this.operation ? this.detailed.indexOf(this.operation) + by : by > 0 ? 0 : this.detailed.length - 1;
    this.chooseOperation(this.detailed[Math.max(0, Math.min(this.detailed.length - 1, i))]);
  }

  show(from, to) {
    const whole = (this.end - this.begin) * 1.02 + 2;
    const span = Math.min(whole, Math.max(minSpan, to - from));
    const low = this.begin - whole * 0.01;
    const middle = (from + to) / 2;
    this.from = Math.max(low, Math.min(low + whole - span, middle - span / 2));
    this.to = this.from + span;
    this.draw();
  }
  // Returns whether the view changed.
  zoom(factor, at = (this.from + this.to) / 2) {
    const before = [this.from, this.to];
    this.show(at - (at - this.from) * factor, at + (this.to - at) * factor);
    return before[0] !== this.from || before[1] !== this.to;
  }
  pan(share) {
    const by = (this.to - this.from) * share;
    this.show(this.from + by, this.to + by);
  }

  // ---- input

  onWheel(event) {
    if (event.ctrlKey === false && (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY))) {
      this.pan((event.deltaX || event.deltaY) / this.plotWidth());
      event.preventDefault();
      return;
    }
    // With all in view already, the wheel scrolls the page on.
    const scale = event.deltaMode === 1 ? 20 : 1;
    const factor = Math.exp(Math.max(-300, Math.min(300, event.deltaY * scale)) * 0.0022);
    if (this.zoom(factor, this.timeAt(event.offsetX))) event.preventDefault();
    tip.hide();
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const actions = {
      "+": () => this.zoom(0.5), "=": () => this.zoom(0.5), "-": () => this.zoom(2), "_": () => this.zoom(2),
      "0": () => this.fit(), "Home": () => this.fit(),
      "ArrowLeft": () => this.pan(-0.15), "ArrowRight": () => this.pan(0.15),
      "ArrowUp": () => this.pick(-1, 0), "ArrowDown": () => this.pick(1, 0),
      ",": () => this.pick(0, -1), ".": () => this.pick(0, 1),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }

  // Moves to the next lane or visible interval, brings it into view and describes it.
  pick(lanes, steps) {
    if (!this.picked) {
      const first = this.lanes.findIndex((lane) => lane.begin.length > 0);
      this.picked = {lane: first, i: this.firstIn(this.lanes[first], this.from)};
      lanes = 0;
      steps = 0;
    }
    const {picked} = this;
    if (lanes) {
      const middle = this.lanes[picked.lane].begin[picked.i];
      picked.lane = Math.max(0, Math.min(this.lanes.length - 1, picked.lane + lanes));
      picked.i = this.firstIn(this.lanes[picked.lane], middle);
    }
    const lane = this.lanes[picked.lane];
    const last = lane.begin.length - 1;
    picked.i = Math.max(0, Math.min(last, picked.i + steps));
    while (hiddenClasses.has(lane.name[picked.i]) && picked.i + (steps || 1) >= 0 && picked.i + (steps || 1) <= last) {
      picked.i += steps || 1;
    }
    const [begin, end] = [lane.begin[picked.i], lane.end[picked.i]];
    const span = this.to - this.from;
    if (begin < this.from || end > this.to) this.show((begin + end - span) / 2, (begin + end + span) / 2);
    else this.draw();
    const box = this.canvas.getBoundingClientRect();
    this.describe(picked.lane, picked.i, box.left + Math.max(this.left, this.x(begin)),
      box.top + this.laneTop(picked.lane) + this.laneHeight);
    this.status.textContent = `rank ${this.ranks[picked.lane]}, ${classOf.get(lane.name[picked.i]).label}: ` +
      time(end - begin);
  }

  hover(event) {
    const lane = Math.floor((event.offsetY - this.top + this.gap / 2) / (this.laneHeight + this.gap));
    const at = this.timeAt(event.offsetX);
    if (lane < 0 || lane >= this.lanes.length || event.offsetX < this.left) return tip.hide();
    const i = this.firstIn(this.lanes[lane], at);
    const {begin, end, name} = this.lanes[lane];
    if (i >= begin.length || begin[i] > at || end[i] < at || hiddenClasses.has(name[i])) return tip.hide();
    this.describe(lane, i, event.clientX, event.clientY);
  }

  describe(l, i, x, y) {
    const lane = this.lanes[l];
    const {name, peer, operation} = lane;
    const zero = operation[i].begin_ns;
    tip.show(x, y, classOf.get(name[i]).label, [
      ["duration", time(lane.end[i] - lane.begin[i])],
      ["rank", String(this.ranks[l])],
      ...(peer[i] === null ? [] : [["peer", `rank ${peer[i]}`]]),
      ["from", time(lane.begin[i] - zero)], ["to", time(lane.end[i] - zero)],
      ["operation", `#${operation[i].number}`],
    ], classOf.get(name[i]).description);
  }

  // Index of the first interval that ends after `at`.
  firstIn(lane, at) {
    return Math.min(Math.max(0, lane.end.length - 1), d3.bisectRight(lane.end, at));
  }

  // ---- geometry, in CSS pixels

  maxArrows() { return this.plotWidth() / arrowWidth; }
  plotWidth() { return this.width - this.left - this.right; }
  x(at) { return this.left + (at - this.from) / (this.to - this.from) * this.plotWidth(); }
  timeAt(x) { return this.from + (x - this.left) / this.plotWidth() * (this.to - this.from); }
  laneTop(lane) { return this.top + lane * (this.laneHeight + this.gap); }

  measure() {
    this.width = Math.floor(this.figure.clientWidth);
    this.left = this.width < 560 ? 50 : 124;
    this.right = 8;
    this.top = 34;
    this.laneHeight = this.ranks.length <= 8 ? 30 : this.ranks.length <= 16 ? 20 : 12;
    this.gap = this.ranks.length <= 8 ? 16 : this.ranks.length <= 16 ? 10 : 6;
    this.height = this.laneTop(this.ranks.length) + 2;
  }

  // ---- drawing

  draw() {
    if (!this.figure.clientWidth) return;
    if (!document.documentElement.classList.contains("printing")) this.measure();
    if (!this.width) return;
    const ratio = Math.max(1, devicePixelRatio || 1);
    const {canvas} = this;
    canvas.width = Math.round(this.width * ratio);
    canvas.height = Math.round(this.height * ratio);
    canvas.style.aspectRatio = `${this.width} / ${this.height}`;
    this.colors = Object.fromEntries(report.classes.map(({name}) =>
      [name, {fill: css(`--${name.replace(/_/g, "-")}`), ink: css(`--on-${name.replace(/_/g, "-")}`)}]));
    this.text = css("--text");
    this.muted = css("--muted");
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.textBaseline = "middle";
    context.font = `12px ${css("--sans")}`;
    this.drawAxis(context);
    let count = 0;
    this.lanes.forEach((lane, l) => { count += this.drawLane(context, lane, l); });
    const writes = this.showsWrites ? this.drawFlows(context) : 0;
    if (this.showsPath) this.drawPath(context);
    if (this.picked) this.drawPicked(context);
    this.describeView(count, writes);
  }

  describeView(count, writes) {
    const {canvas} = this;
    canvas.dataset.fromNs = String(Math.round(this.from));
    canvas.dataset.toNs = String(Math.round(this.to));
    const what = this.operation ? `operation #${this.operation.number}, ${this.operation.what}` : "all operations";
    canvas.setAttribute("aria-label", `Timeline of ${plural(this.ranks.length, "rank")}: ` +
      `${time(this.to - this.from)} of ${what}`);
    const arrows = !this.showsWrites || writes === 0 ? ""
      : writes > this.maxArrows() ? ` · ${plural(writes, "write")}: zoom in to see them as arrows`
      : ` · ${plural(writes, "write")}`;
    this.status.textContent = `${time(this.to - this.from)} in view · ${plural(count, "interval")}${arrows}`;
  }

  drawAxis(context) {
    const zero = this.operation ? this.operation.begin_ns : this.begin;
    const [size, unit] = unitFor(this.to - this.from);
    const scale = d3.scale.linear().domain([(this.from - zero) / size, (this.to - zero) / size])
      .range([this.left, this.width - this.right]);
    context.textAlign = "center";
    context.lineWidth = 1;
    const ticks = scale.ticks(Math.max(2, Math.floor(this.plotWidth() / 110)));
    const step = ticks.length > 1 ? Math.abs(ticks[1] - ticks[0]) : 1;
    const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    for (const tick of ticks) {
      const x = Math.round(scale(tick)) + 0.5;
      context.strokeStyle = css("--rule");
      context.beginPath();
      context.moveTo(x, 24);
      context.lineTo(x, this.height);
      context.stroke();
      if (x < this.left + 12 || x > this.width - 26) continue;
      context.fillStyle = this.muted;
      context.fillText(`${tick.toFixed(decimals)} ${unit}`, x, 12);
    }
  }

  drawLane(context, lane, l) {
    const top = this.laneTop(l);
    const {width, left} = this;
    context.fillStyle = css("--lane");
    context.fillRect(left, top, this.plotWidth(), this.laneHeight);
    const info = this.run.ranks.find(({rank}) => rank === this.ranks[l]);
    context.textAlign = "right";
    context.fillStyle = this.text;
    const middle = top + this.laneHeight / 2;
    if (left > 100) {
      const twoLines = this.laneHeight > 24 && info && info.host;
      context.fillText(`rank ${this.ranks[l]}`, left - 12, twoLines ? middle - 7 : middle);
      if (twoLines) {
        context.fillStyle = this.muted;
        context.fillText(info.host.length > 16 ? `${info.host.slice(0, 15)}…` : info.host, left - 12, middle + 8);
      }
    } else {
      context.fillText(String(this.ranks[l]), left - 10, middle);
    }
    // What is narrower than a pixel adds to the pixel it is in, which shows what fills most of it.
    const pixels = new Map();
    let count = 0;
    const scale = this.plotWidth() / (this.to - this.from);
    for (let i = this.firstIn(lane, this.from); i < lane.begin.length && lane.begin[i] < this.to; ++i) {
      ++count;
      const name = lane.name[i];
      if (hiddenClasses.has(name)) continue;
      const from = Math.max(left, left + (lane.begin[i] - this.from) * scale);
      const to = Math.min(width - this.right, left + (lane.end[i] - this.from) * scale);
      if (to - from >= 1) {
        this.drawInterval(context, name, from, top, to - from);
      } else {
        const pixel = Math.floor(from);
        if (!pixels.has(pixel)) pixels.set(pixel, {});
        const sums = pixels.get(pixel);
        sums[name] = (sums[name] || 0) + to - from;
      }
    }
    for (const [pixel, sums] of pixels) {
      const most = Object.entries(sums).reduce((a, b) => b[1] > a[1] ? b : a);
      context.fillStyle = this.colors[most[0]].fill;
      context.fillRect(pixel, top, 1, this.laneHeight);
    }
    return count;
  }

  drawInterval(context, name, x, top, width) {
    const color = this.colors[name];
    const drawn = width > 4 ? width - 1 : width;
    context.fillStyle = color.fill;
    context.fillRect(x, top, drawn, this.laneHeight);
    if (stalled.has(name) && drawn > 6) this.drawHatch(context, x, top, drawn);
    if (drawn < minLabelWidth) return;
    const label = classOf.get(name).label;
    const wide = context.measureText(label).width;
    if (wide + 12 > drawn) return;
    context.textAlign = "left";
    if (stalled.has(name)) {
      context.fillStyle = color.fill;
      context.fillRect(x + 4, top + this.laneHeight / 2 - 9, wide + 6, 18);
    }
    context.fillStyle = color.ink;
    context.fillText(label, x + 7, top + this.laneHeight / 2 + 1);
  }

  drawHatch(context, x, top, width) {
    const {laneHeight} = this;
    context.save();
    context.beginPath();
    context.rect(x, top, width, laneHeight);
    context.clip();
    context.strokeStyle = css("--stripe");
    context.lineWidth = 1.4;
    context.beginPath();
    // The stripes of neighbours meet: they start from the same grid.
    for (let at = Math.floor((x - laneHeight) / 7) * 7; at < x + width; at += 7) {
      context.moveTo(at, top + laneHeight);
      context.lineTo(at + laneHeight, top);
    }
    context.stroke();
    context.restore();
  }

  // Returns how many writes are in view; draws them when they can be told apart.
  drawFlows(context) {
    const seen = this.flows.filter(({posted, arrived}) => posted < this.to && arrived > this.from);
    if (seen.length > this.maxArrows()) return seen.length;
    context.save();
    context.beginPath();
    context.rect(this.left, this.top - 8, this.plotWidth(), this.height);
    context.clip();
    context.strokeStyle = this.text;
    context.fillStyle = this.text;
    context.lineWidth = 1;
    context.globalAlpha = 0.6;
    for (const {from, to, posted, arrived} of seen) {
      const down = to > from;
      const [x1, x2] = [this.x(posted), this.x(arrived)];
      const y1 = this.laneTop(from) + (down ? this.laneHeight : 0);
      const y2 = this.laneTop(to) + (down ? 0 : this.laneHeight);
      context.beginPath();
      context.moveTo(x1, y1);
      context.lineTo(x2, y2);
      context.stroke();
      const angle = Math.atan2(y2 - y1, x2 - x1);
      context.beginPath();
      context.moveTo(x2, y2);
      context.lineTo(x2 - 7 * Math.cos(angle - 0.35), y2 - 7 * Math.sin(angle - 0.35));
      context.lineTo(x2 - 7 * Math.cos(angle + 0.35), y2 - 7 * Math.sin(angle + 0.35));
      context.fill();
    }
    context.restore();
    return seen.length;
  }

  // A line under the lanes of the ranks that the operation's end hung on.
  drawPath(context) {
    context.save();
    context.beginPath();
    context.rect(this.left, 0, this.plotWidth(), this.height);
    context.clip();
    const line = new Path2D();
    for (const operation of this.detailed) {
      if (operation.end_ns < this.from || operation.begin_ns > this.to) continue;
      const {rank, begin_ns: begin, end_ns: end} = operation.critical_path;
      for (let i = 0; i < rank.length; ++i) {
        const lane = this.laneOf.get(rank[i]);
        if (lane === undefined) continue;
        const y = this.laneTop(lane) + this.laneHeight + 3;
        if (i === 0) line.moveTo(this.x(begin[i]), y); else line.lineTo(this.x(begin[i]), y);
        line.lineTo(this.x(end[i]), y);
      }
    }
    context.lineJoin = "round";
    context.strokeStyle = css("--background");
    context.lineWidth = 5;
    context.stroke(line);
    context.strokeStyle = css("--path");
    context.lineWidth = 2.5;
    context.stroke(line);
    context.restore();
  }

  drawPicked(context) {
    const {lane, i} = this.picked;
    const from = Math.max(this.left, this.x(this.lanes[lane].begin[i]));
    const to = Math.min(this.width - this.right, this.x(this.lanes[lane].end[i]));
    if (to < from) return;
    context.strokeStyle = this.text;
    context.lineWidth = 2;
    context.strokeRect(from - 1, this.laneTop(lane) - 2, Math.max(3, to - from + 1), this.laneHeight + 4);
  }
}
