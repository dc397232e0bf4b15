// Where the time of a run goes: the legend that switches classes, bars for the critical path and the
// ranks, and a column per operation.

const maxBars = 48;

// Classes that took time in this run, in the order of drawing.
function classesIn(run) {
  const tallies = [run.totals.critical_path, ...run.totals.ranks];
  return report.classes.filter(({name}) => tallies.some((tally) => tally.class_ns[name] > 0));
}

function shareOf(tally, name) {
  return tally.total_ns > 0 ? (tally.class_ns[name] || 0) / tally.total_ns : 0;
}

// The tally that stands for the run: the critical path, else all ranks.
function mainTally(run) {
  if (run.totals.critical_path.operations > 0) return run.totals.critical_path;
  const sum = {total_ns: 0, class_ns: {}};
  for (const tally of run.totals.ranks) {
    sum.total_ns += tally.total_ns;
    for (const [name, ns] of Object.entries(tally.class_ns)) {
      sum.class_ns[name] = (sum.class_ns[name] || 0) + ns;
    }
  }
  return sum;
}

// Buttons, one per class; they switch the class in every chart and timeline of the page.
function classLegend(run) {
  const tally = mainTally(run);
  const of = run.totals.critical_path.operations > 0 ? "of the critical path" : "of all time";
  const buttons = classesIn(run).map(({name, label, description}) => element("button", {
    type: "button", class: "class-toggle", "data-class": name,
    "aria-label": `${label}, ${percent(shareOf(tally, name))} ${of}`, title: description,
    onclick: () => toggleClass(name),
  }, swatch(name), element("span", {}, label), element("b", {}, percent(shareOf(tally, name)))));
  const all = element("button", {type: "button", class: "show-all", onclick: showAllClasses},
    "show all");
  const update = () => {
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(!hiddenClasses.has(button.dataset.class)));
    }
    all.hidden = hiddenClasses.size === 0;
  };
  update();
  onChange.push(update);
  return element("div", {class: "legend", role: "group", "aria-label": `Classes; shares ${of}`},
    buttons, all);
}

// [{name, label, begin, size}]: the visible classes of `tally` one after another, ns of one operation.
function stack(tally, classes) {
  let begin = 0;
  const pieces = [];
  for (const {name, label} of classes) {
    const size = (tally.class_ns[name] || 0) / Math.max(1, tally.operations);
    if (size === 0 || hiddenClasses.has(name)) continue;
    pieces.push({name, label, begin, size});
    begin += size;
  }
  return pieces;
}

function barTip(event, title, tally, piece, what) {
  tip.show(event.clientX, event.clientY, piece.label, [
    [what, title], ["time", time(piece.size)], ["share", percent(shareOf(tally, piece.name))],
  ], classOf.get(piece.name).description);
}

function drawBarRows(rows, classes, width, label) {
  // Long names stand above their bars.
  const above = rows.some(({name}) => name.length > 14);
  const left = above ? 0 : width < 560 ? 106 : 124;
  const right = 74;
  const barHeight = 22;
  const top = above ? 20 : 0;
  const rowHeight = barHeight + top + 8;
  const svg = newSvg(width, rows.length * rowHeight + 6, label);
  const longest = d3.max(rows, ({tally}) => tally.total_ns / Math.max(1, tally.operations)) || 1;
  const x = d3.scale.linear().domain([0, longest]).range([0, width - left - right]);
  rows.forEach(({name, tally, tallied}, r) => {
    const row = svg.append("g").attr("class", "bar-row").attr("transform", `translate(0,${r * rowHeight + 4})`);
    const room = Math.floor((above ? width : left - 12) / 6.8);
    row.append("text").attr({class: "row-name", x: above ? 0 : left - 12, y: above ? 9 : barHeight / 2,
      dy: "0.35em", "text-anchor": above ? "start" : "end"})
      .text(name.length > room ? `${name.slice(0, room - 1)}…` : name).append("title").text(name);
    row.append("rect").attr({class: "lane", x: left, y: top, width: x(longest), height: barHeight});
    const pieces = stack(tally, classes);
    for (const piece of pieces) {
      const box = {x: left + x(piece.begin), width: Math.max(0.5, x(piece.size) - 0.75),
        y: top, height: barHeight};
      const group = row.append("g").attr({class: "piece", "data-class": piece.name});
      group.append("rect").attr(box).style("fill", fill(piece.name));
      if (stalled.has(piece.name)) group.append("rect").attr(box).style("fill", "url(#hatch)");
      const text = [`${piece.label} ${percent(shareOf(tally, piece.name))}`, percent(shareOf(tally, piece.name))]
        .find((candidate) => candidate.length * 6.6 + 10 < box.width);
      if (text) {
        const inside = group.append("text").attr({class: "inside", x: box.x + 6, y: top + barHeight / 2, dy: "0.35em"})
          .style("fill", ink(piece.name)).text(text);
        if (stalled.has(piece.name)) inside.classed("on-hatch", true).style("stroke", fill(piece.name));
      }
      group.on("mousemove", () => barTip(d3.event, name, tally, piece, tallied))
        .on("mouseleave", () => tip.hide());
    }
    row.append("text").attr({class: "row-value", x: width, y: top + barHeight / 2, dy: "0.35em",
      "text-anchor": "end"}).text(time(d3.sum(pieces, ({size}) => size)));
  });
  return svg.node();
}

function rankRows(run) {
  const critical = run.totals.critical_path;
  const rows = critical.operations > 0 ? [{name: "critical path", tally: critical, tallied: "of"}] : [];
  for (const tally of run.totals.ranks) rows.push({name: `rank ${tally.rank}`, tally, tallied: "of"});
  return rows.slice(0, maxBars + 1);
}

function kindRows(run) {
  return run.totals.kinds.slice(0, maxBars).map((kind) => ({name: kind.what, tally: kind, tallied: "of"}));
}

function barsFigure(run, title, rows) {
  const classes = classesIn(run);
  const plot = element("div", {class: "plot bars"});
  const draw = () => {
    if (plot.clientWidth) plot.replaceChildren(drawBarRows(rows, classes, plot.clientWidth, title));
  };
  onWidth(plot, draw);
  onChange.push(draw);
  const names = rows.map(({name}) => name);
  const cells = classes.map(({name, label}) => [label, ...rows.map(({tally}) =>
    percent(shareOf(tally, name)))]);
  const total = ["time of one operation", ...rows.map(({tally}) =>
    time(tally.total_ns / Math.max(1, tally.operations)))];
  return element("figure", {}, element("figcaption", {}, title), plot,
    foldout("Numbers", table(["class", ...names], [...cells, total], title)));
}

// ---- a column per operation

// Operations one after another, in bins when there are more than fit. The mean of the ranks.
function operationBins(run, count) {
  const size = Math.ceil(run.operations.length / count);
  return d3.range(Math.ceil(run.operations.length / size)).map((b) => {
    const members = run.operations.slice(b * size, (b + 1) * size);
    const tally = {operations: 0, total_ns: 0, class_ns: {}};
    for (const {ranks} of members) {
      for (const rank of ranks) {
        ++tally.operations;
        tally.total_ns += rank.end_ns - rank.begin_ns;
        for (const [name, ns] of Object.entries(rank.class_ns)) {
          tally.class_ns[name] = (tally.class_ns[name] || 0) + ns;
        }
      }
    }
    return {members, tally};
  });
}

function drawColumns(run, classes, width, choose) {
  const margin = {left: 58, right: 4, top: 22, bottom: 28};
  const height = 190;
  const bins = operationBins(run, Math.max(10, Math.floor((width - margin.left) / 5)));
  const svg = newSvg(width, height, "Time of each operation by class, mean of the ranks");
  const most = d3.max(bins, ({tally}) => tally.total_ns / Math.max(1, tally.operations)) || 1;
  const [size, unit] = unitFor(most);
  const y = d3.scale.linear().domain([0, most / size]).nice(4).range([height - margin.bottom, margin.top]);
  drawYAxis(svg, y, y.ticks(4), margin.left, width - margin.right);
  const x = d3.scale.ordinal().domain(d3.range(bins.length))
    .rangeBands([margin.left, width - margin.right], bins.length > 60 ? 0.08 : 0.2, 0.05);
  const nameOf = ({members}) => members.length === 1 ? `#${members[0].number}`
    : `#${members[0].number} – #${members[members.length - 1].number}`;
  drawXAxis(svg, bins.map((bin) => `#${bin.members[0].number}`), (b) => x(b) + x.rangeBand() / 2,
    height - margin.bottom, width - margin.left);
  svg.append("text").attr({class: "axis-title", x: 0, y: 10}).text(`time (${unit})`);
  bins.forEach((bin, b) => {
    const slowest = bin.members.reduce((a, c) => c.end_ns - c.begin_ns > a.end_ns - a.begin_ns ? c : a);
    const column = svg.append("g").attr("class", "column");
    for (const piece of stack(bin.tally, classes)) {
      const box = {x: x(b), width: x.rangeBand(), y: y((piece.begin + piece.size) / size)};
      box.height = y(piece.begin / size) - box.y;
      const group = column.append("g").attr({class: "piece", "data-class": piece.name});
      group.append("rect").attr(box).style("fill", fill(piece.name));
      if (stalled.has(piece.name)) group.append("rect").attr(box).style("fill", "url(#hatch)");
      group.on("mousemove", () => barTip(d3.event, nameOf(bin), bin.tally, piece,
        bin.members.length === 1 ? bin.members[0].what : "mean of")).on("mouseleave", () => tip.hide());
    }
    column.on("click", () => choose(slowest));
  });
  return svg.node();
}

// `choose` is called with the operation whose column is clicked, the slowest of a bin.
function operationsFigure(run, choose) {
  const classes = classesIn(run);
  const plot = element("div", {class: "plot columns"});
  const draw = () => {
    if (plot.clientWidth) plot.replaceChildren(drawColumns(run, classes, plot.clientWidth, choose));
  };
  onWidth(plot, draw);
  onChange.push(draw);
  return element("figure", {}, element("figcaption", {}, "Operation by operation, mean of the ranks"),
    plot, element("p", {class: "hint screen"}, "A click on a column shows that operation in the timeline."));
}
