// Charts of studies and of the model: lines, bars, stacked bars, and measured against predicted.

const symbols = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"];
const byLabel = new Map(report.classes.map((entry) => [entry.label, entry.name]));

// A series that is named after a class has the colour of the class.
function seriesColor(name, i) {
  const known = classOf.has(name) ? name : byLabel.get(name);
  return known ? fill(known) : `var(--series-${i % 6})`;
}
function seriesIsStalled(name) {
  return stalled.has(classOf.has(name) ? name : byLabel.get(name));
}

function newSvg(width, height, label) {
  return d3.select(document.createElementNS("http://www.w3.org/2000/svg", "svg"))
    .attr({viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label});
}

// 1, 2, 5 times powers of ten within [low, high]; powers alone when there are many.
function logTicks(low, high) {
  const all = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); ++power) {
    for (const step of [1, 2, 5]) all.push(step * 10 ** power);
  }
  const inside = all.filter((value) => value >= low * 0.999 && value <= high * 1.001);
  const powers = inside.filter((value) => /^1e/.test(value.toExponential()));
  return inside.length > 7 && powers.length >= 2 ? powers : inside;
}

// Horizontal lines with labels to the left.
function drawYAxis(svg, scale, ticks, left, right) {
  const axis = svg.append("g").attr("class", "axis");
  const rows = axis.selectAll("g").data(ticks).enter().append("g")
    .attr("transform", (value) => `translate(0,${scale(value)})`);
  rows.append("line").attr({x1: left, x2: right});
  rows.append("text").attr({x: left - 8, dy: "0.32em", "text-anchor": "end"}).text((v) => number(v));
}

// Labels of categories below, as many as fit.
function drawXAxis(svg, names, position, bottom, width) {
  const longest = d3.max(names, (name) => name.length) || 1;
  const every = Math.max(1, Math.ceil(names.length * (longest * 6.6 + 10) / width));
  svg.append("g").attr("class", "axis").selectAll("text")
    .data(names.map((name, i) => ({name, i})).filter(({i}) => i % every === 0)).enter().append("text")
    .attr({x: ({i}) => position(i), y: bottom + 18, "text-anchor": "middle"}).text(({name}) => name);
}

function axisTitles(svg, chart, width, height) {
  svg.append("text").attr({class: "axis-title", x: 0, y: 10}).text(labelUnits(chart.y_label));
  svg.append("text").attr({class: "axis-title", x: width, y: height - 4, "text-anchor": "end"})
    .text(labelUnits(chart.x_label));
}

function yScale(chart, low, high, top, bottom) {
  if (!chart.log_y) {
    // Shares that add up to 100 % but for rounding end there.
    const most = chart.y_label === "%" && Math.abs(high - 100) < 1 ? 100 : high || 1;
    const scale = d3.scale.linear().domain([Math.min(0, low), most]).nice(5).range([bottom, top]);
    return {scale, ticks: scale.ticks(5)};
  }
  const scale = d3.scale.log().domain([low / 1.15, high * 1.15]).range([bottom, top]);
  return {scale, ticks: logTicks(low / 1.15, high * 1.15)};
}

function drawWhisker(parent, x, low, high, color) {
  const path = `M${x - 4},${low}H${x + 4}M${x},${low}V${high}M${x - 4},${high}H${x + 4}`;
  parent.append("path").attr({class: "whisker", d: path}).style("stroke", color);
}

// One mark per value; `offset` keeps the spreads of series apart.
function drawLines(svg, chart, x, y, drawable) {
  chart.series.forEach((series, s) => {
    const color = seriesColor(series.name, s);
    const group = svg.append("g").attr("class", "series");
    const points = series.y.map((value, i) => ({value, i}));
    const offset = (s - (chart.series.length - 1) / 2) * 3;
    points.forEach(({i}) => {
      if (drawable(series.low[i]) && drawable(series.high[i])) {
        drawWhisker(group, x(i) + offset, y(series.low[i]), y(series.high[i]), color);
      }
    });
    if (chart.kind === "line") group.append("path").attr({class: "line", d: d3.svg.line().defined(({value}) => drawable(value))
      .x(({i}) => x(i) + offset).y(({value}) => y(value))(points)}).style("stroke", color);
    group.selectAll(".mark").data(points.filter(({value}) => drawable(value))).enter().append("path")
      .attr({class: "mark", d: d3.svg.symbol().type(symbols[s % symbols.length]).size(52),
        transform: ({value, i}) => `translate(${x(i) + offset},${y(value)})`}).style("fill", color);
  });
}

// By marks, on a line or not; otherwise by bars.
const marked = ({kind}) => kind === "line" || kind === "point";

function drawBar(parent, x, width, from, to, name, color) {
  const box = {x, width: Math.max(1, width), y: Math.min(from, to), height: Math.abs(from - to)};
  parent.append("rect").attr(box).style("fill", color);
  if (seriesIsStalled(name)) parent.append("rect").attr(box).style("fill", "url(#hatch)");
}

function drawBars(svg, chart, band, y, base, drawable) {
  const count = chart.series.length;
  chart.x.forEach((_, i) => {
    let sum = 0;
    chart.series.forEach((series, s) => {
      const value = series.y[i];
      if (!drawable(value)) return;
      const color = seriesColor(series.name, s);
      if (chart.kind === "stacked_bar") {
        drawBar(svg, band.x(i), band.width, y(sum), y(sum + value), series.name, color);
        sum += value;
        return;
      }
      const width = band.width / count;
      drawBar(svg, band.x(i) + s * width, width - 1.5, base, y(value), series.name, color);
      if (drawable(series.low[i]) && drawable(series.high[i])) {
        drawWhisker(svg, band.x(i) + (s + 0.5) * width, y(series.low[i]), y(series.high[i]),
          "var(--text)");
      }
    });
  });
}

function chartLegend(chart) {
  if (chart.series.length < 2) return null;
  return element("ul", {class: "series-legend"}, chart.series.map((series, s) => {
    const known = classOf.has(series.name) ? series.name : byLabel.get(series.name);
    const mark = newSvg(14, 14, "").attr({role: "presentation", "aria-label": null});
    if (marked(chart)) {
      mark.append("path").attr({d: d3.svg.symbol().type(symbols[s % symbols.length]).size(52),
        transform: "translate(7,7)"}).style("fill", seriesColor(series.name, s));
    } else {
      drawBar(mark, 1, 12, 1, 13, series.name, seriesColor(series.name, s));
    }
    return element("li", {}, mark.node(), known ? classOf.get(known).label : series.name);
  }));
}

function chartRange(chart, drawable) {
  if (chart.kind === "stacked_bar") {
    return [0, d3.max(chart.x, (_, i) => d3.sum(chart.series, (series) => series.y[i] || 0))];
  }
  const values = chart.series.flatMap((series) => [...series.y, ...series.low, ...series.high])
    .filter(drawable);
  return d3.extent(values);
}

function drawChart(chart, width) {
  const margin = {left: 58, right: 12, top: 26, bottom: 44};
  const height = Math.round(Math.min(320, Math.max(220, width * 0.42)));
  const [right, bottom] = [width - margin.right, height - margin.bottom];
  const isLog = chart.log_y && chart.kind !== "stacked_bar";
  const drawable = (value) => typeof value === "number" && (!isLog || value > 0);
  const [low, high] = chartRange(chart, drawable);
  const svg = newSvg(width, height, `${chart.title}: ${chart.y_label} by ${chart.x_label}`);
  if (low === undefined) {
    svg.append("text").attr({x: width / 2, y: height / 2, "text-anchor": "middle"}).text("not measured");
    return svg.node();
  }
  const {scale: y, ticks} = yScale({...chart, log_y: isLog}, low, high, margin.top, bottom);
  drawYAxis(svg, y, ticks, margin.left, right);
  const bands = d3.scale.ordinal().domain(d3.range(chart.x.length));
  if (marked(chart)) {
    bands.rangePoints([margin.left, right], 1);
    drawXAxis(svg, chart.x, (i) => bands(i), bottom, right - margin.left);
    drawLines(svg, chart, (i) => bands(i), y, drawable);
  } else {
    bands.rangeBands([margin.left, right], 0.28, 0.2);
    const half = bands.rangeBand() / 2;
    drawXAxis(svg, chart.x, (i) => bands(i) + half, bottom, right - margin.left);
    drawBars(svg, chart, {x: (i) => bands(i), width: bands.rangeBand()}, y,
      isLog ? bottom : y(0), drawable);
  }
  axisTitles(svg, chart, width, height);
  const step = (right - margin.left) / Math.max(1, chart.x.length);
  svg.on("mousemove", function () {
    const i = Math.floor((d3.mouse(this)[0] - margin.left) / step);
    if (i < 0 || i >= chart.x.length) return tip.hide();
    tip.show(d3.event.clientX, d3.event.clientY, `${chart.x_label} ${chart.x[i]}`,
      chart.series.map((series) => [series.name, spread(series, i)]), labelUnits(chart.y_label));
  }).on("mouseleave", () => tip.hide());
  return svg.node();
}

function spread(series, i) {
  const [low, high] = [series.low[i], series.high[i]];
  const has = typeof low === "number" && typeof high === "number";
  return number(series.y[i], 4) + (has ? ` (${number(low, 4)} – ${number(high, 4)})` : "");
}

function chartFigure(chart) {
  const plot = element("div", {class: "plot"});
  onWidth(plot, (width) => plot.replaceChildren(drawChart(chart, width)));
  const rows = chart.x.map((name, i) => [name, ...chart.series.map((series) => spread(series, i))]);
  return element("figure", {class: "chart"}, element("figcaption", {}, chart.title),
    chartLegend(chart), plot,
    foldout("Numbers", table([chart.x_label, ...chart.series.map((series) => series.name)], rows,
      `Numbers of ${chart.title}`)));
}

// ---- the model: time against size, both logarithmic

function drawModel(points, width) {
  const margin = {left: 58, right: 16, top: 26, bottom: 44};
  const height = Math.round(Math.min(340, Math.max(240, width * 0.45)));
  const svg = newSvg(width, height, "Measured and predicted time of operations by size");
  const sizes = d3.extent(points, (point) => point.bytes);
  const times = d3.extent(points.flatMap((point) => [point.measured_us, point.predicted_us]));
  const x = d3.scale.log().domain([sizes[0] / 1.6, sizes[1] * 1.6])
    .range([margin.left, width - margin.right]);
  const y = d3.scale.log().domain([times[0] / 1.3, times[1] * 1.3])
    .range([height - margin.bottom, margin.top]);
  drawYAxis(svg, y, logTicks(...y.domain()), margin.left, width - margin.right);
  // Sizes that were measured, as many as there is room for.
  const ticks = [...new Set(points.map((point) => point.bytes))].sort((a, b) => a - b);
  const room = Math.max(1, Math.ceil(ticks.length * 62 / (width - margin.left)));
  svg.append("g").attr("class", "axis").selectAll("text")
    .data(ticks.filter((_, i) => i % room === 0)).enter().append("text")
    .attr({x, y: height - margin.bottom + 18, "text-anchor": "middle"}).text(binarySize);
  axisTitles(svg, {x_label: "size of the operation", y_label: "time (µs)"}, width, height);
  modelGroups(points).forEach(({name, members}, g) => {
    const group = svg.append("g").attr("class", "series");
    const color = `var(--series-${g % 6})`;
    group.append("path").attr({class: "line predicted", d: d3.svg.line().x((p) => x(p.bytes))
      .y((p) => y(p.predicted_us))(members)}).style("stroke", color);
    group.selectAll(".mark").data(members).enter().append("path")
      .attr({class: "mark", d: d3.svg.symbol().type(symbols[g % symbols.length]).size(56),
        transform: (p) => `translate(${x(p.bytes)},${y(p.measured_us)})`}).style("fill", color)
      .on("mousemove", (p) => tip.show(d3.event.clientX, d3.event.clientY, p.what, [
        ["ranks", String(p.ranks)], ["measured", time(p.measured_us * 1e3)],
        ["predicted", time(p.predicted_us * 1e3)], ["off by", offBy(p.predicted_us, p.measured_us)]], name))
      .on("mouseleave", () => tip.hide());
  });
  return svg.node();
}

// One line for each algorithm and number of ranks.
function modelGroups(points) {
  const groups = new Map();
  for (const point of points) {
    const name = `${point.algorithm.replace(/_/g, " ")}, ${plural(point.ranks, "rank")}`;
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(point);
  }
  return [...groups].map(([name, members]) => ({name, members:
    members.sort((a, b) => a.bytes - b.bytes)}));
}

function modelLegend(points) {
  return element("ul", {class: "series-legend"}, modelGroups(points).map(({name}, g) => {
    const mark = newSvg(26, 14, "").attr({role: "presentation", "aria-label": null});
    mark.append("path").attr({class: "line predicted", d: "M1,7H25"})
      .style("stroke", `var(--series-${g % 6})`);
    mark.append("path").attr({d: d3.svg.symbol().type(symbols[g % symbols.length]).size(52),
      transform: "translate(13,7)"}).style("fill", `var(--series-${g % 6})`);
    return element("li", {}, mark.node(), name);
  }));
}

function pointTable(model) {
  const rows = model.points.map((p) => [binarySize(p.bytes), p.algorithm.replace(/_/g, " "), String(p.ranks),
    number(p.measured_us, 4), number(p.predicted_us, 4), offBy(p.predicted_us, p.measured_us),
    p.unseen_us === null ? "–" : offBy(p.unseen_us, p.measured_us)]);
  return table(["size", "algorithm", "ranks", "measured (us)", "predicted (us)", "off by", "unseen off by"],
    rows, "Measured and predicted times");
}

// A row for each world and slice, a column for each size.
function predictionTable({predictions}) {
  const sizes = [...new Set(predictions.map((p) => p.bytes))].sort((a, b) => a - b);
  const rows = new Map();
  for (const p of predictions) {
    const key = `${p.ranks} ${p.slice_bytes}`;
    if (!rows.has(key)) rows.set(key, {ranks: p.ranks, slice: p.slice_bytes, times: new Map()});
    rows.get(key).times.set(p.bytes, p.predicted_us);
  }
  const sorted = [...rows.values()].sort((a, b) => a.ranks - b.ranks || a.slice - b.slice);
  return table(["ranks", "slice", ...sizes.map((size) => `${binarySize(size)} (us)`)],
    sorted.map(({ranks, slice, times}) => [String(ranks), binarySize(slice),
      ...sizes.map((size) => times.has(size) ? number(times.get(size), 4) : "–")]), "Predictions");
}

function modelFigure(model) {
  const points = model.points.filter((p) => p.bytes > 0 && p.measured_us > 0 && p.predicted_us > 0);
  const plot = element("div", {class: "plot"});
  if (points.length) onWidth(plot, (width) => plot.replaceChildren(drawModel(points, width)));
  const how = model.overlaps ? "reductions go on while the next bytes travel" : "all of it adds up";
  const unseen = model.unseen_error === null ? ""
    : `; when a size is kept from the fit, half are within ${percent(model.unseen_error)} of it ("unseen")`;
  return element("figure", {class: "chart model", "aria-label": "Model and measurement"},
    element("p", {class: "formula"}, `${number(model.alpha_us)} µs a message, ` +
      `${number(model.beta_us_per_mb)} µs a MB moved, ${number(model.gamma_us_per_mb)} µs a MB reduced; ${how}. ` +
      `Half of the predictions are within ${percent(model.error)} of the measurement${unseen}. Marks are ` +
      "measured, lines predicted."),
    model.notes.length ? element("ul", {class: "notes"}, model.notes.map((note) => element("li", {}, note))) : null,
    modelLegend(points), plot, pointTable(model),
    model.predictions.length ? [element("p", {class: "hint"},
      "What it predicts, with such links and a core for each rank:"), predictionTable(model)] : null);
}
