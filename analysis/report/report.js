// The page: summary, findings, studies, runs.

function paragraphs(text, attributes = {}) {
  return text.split(/\n+/).filter((part) => part.trim()).map((part) => element("p", attributes, sentence(part)));
}

function list(title, sentences, kind) {
  if (!sentences.length) return null;
  return element("div", {class: kind}, element("h4", {}, title),
    element("ul", {}, sentences.map((text) => element("li", {}, sentence(text)))));
}

// ---- findings

function findingItem(finding) {
  const bar = element("span", {class: stalled.has(finding.class) ? "share-bar stalled" : "share-bar"});
  bar.style.width = `${Math.max(2, Math.min(100, 100 * finding.share))}%`;
  bar.style.backgroundColor = fill(finding.class);
  const where = [finding.rank === null ? null : `rank ${finding.rank}`,
    finding.peer === null || finding.peer === finding.rank ? null : `waits for rank ${finding.peer}`,
    `${time(finding.ns_per_operation)} an operation`].filter((part) => part !== null).join(" · ");
  return element("li", {},
    element("div", {class: "share"}, element("b", {}, percent(finding.share)),
      element("span", {class: "share-track"}, bar)),
    element("div", {class: "reason"},
      element("p", {class: "sentence"}, sentence(finding.sentence)),
      finding.advice ? element("p", {class: "advice"}, sentence(finding.advice)) : null,
      element("p", {class: "meta"}, swatch(finding.class), `${classOf.get(finding.class).label} · ${where}`)));
}

function findingsSection() {
  const runs = report.runs.filter(({findings}) => findings.length);
  if (!runs.length) return null;
  return element("section", {id: "findings", "aria-labelledby": "findings-title"},
    element("h2", {id: "findings-title"}, "What to change"),
    element("p", {class: "lead"}, runs.some((run) => run.totals.critical_path.operations > 0)
      ? "Causes by their share of the critical path: the chain of waits and work that decided when the " +
        "slowest rank was done."
      : "Causes by their share of the time of the ranks that were recorded."),
    runs.map((run) => [
      runs.length > 1 || report.runs.length > 1
        ? element("h3", {}, element("a", {href: `#${run.id}`}, run.name)) : null,
      element("ol", {class: "findings"}, run.findings.map(findingItem))]));
}

// ---- runs

function settingsTable(run) {
  const names = [...new Set(run.ranks.flatMap(({settings}) => Object.keys(settings)))].sort();
  if (!names.length) return null;
  const values = (name) => run.ranks.map(({settings}) => settings[name] ?? "–");
  const rows = names.map((name) => {
    const all = values(name);
    const same = all.every((value) => value === all[0]);
    return [element("code", {}, plain(name)), same ? all[0] : all.map((v, i) => `rank ${run.ranks[i].rank}: ${v}`).join(", ")];
  });
  return foldout("Settings", table(["setting", "value"], rows, `Settings of ${run.name}`));
}

function countersTable(run) {
  const names = [...new Set(run.ranks.flatMap(({counters}) => Object.keys(counters)))].sort();
  if (!names.length) return null;
  const rows = names.map((name) => [element("code", {}, plain(name)),
    ...run.ranks.map(({counters}) => name in counters ? counters[name].toLocaleString("en-US") : "")]);
  return foldout("Counters over the run", table(["counter", ...run.ranks.map(({rank}) => `rank ${rank}`)],
    rows, `Counters of ${run.name}`));
}

function ranksTable(run) {
  const rows = run.ranks.map((info) => [String(info.rank), info.host, info.transport, info.device,
    info.rank === 0 ? "–" : info.clock_error_ns < 0 ? "not known"
      : `${time(info.clock_offset_ns)} ± ${time(info.clock_error_ns)}`,
    info.lost_events.toLocaleString("en-US")]);
  return foldout("Ranks and machine",
    element("p", {}, [run.machine.cpu, run.machine.cores ? plural(run.machine.cores, "core") : "",
      run.machine.kernel].filter(Boolean).join(" · ")),
    table(["rank", "host", "transport", "device", "clock offset", "events lost"], rows, `Ranks of ${run.name}`));
}

function runFacts(run) {
  const transports = [...new Set(run.ranks.map(({transport}) => transport))].filter(Boolean).join(", ");
  const kinds = run.totals.kinds;
  const facts = [["transport", transports], ["ranks", String(run.world_size)],
    ["operations", run.operation_count.toLocaleString("en-US")],
    ["median operation", time(run.totals.median_operation_ns)],
    kinds.length === 1 ? ["operation", kinds[0].what] : ["kinds of operation", String(kinds.length)],
    ["recorded", run.started]];
  return element("dl", {class: "facts"}, facts.filter(([, value]) => value).map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value))));
}

function runArticle(run, level) {
  const heading = (text, id) => element(`h${level}`, {id}, text);
  const sub = (text) => element(`h${level + 1}`, {}, text);
  const parts = [heading(run.name, run.id), runFacts(run),
    run.steps ? paragraphs(run.steps.sentence, {class: "steps"}) : null,
    list("Read with care", run.problems, "problem")];
  if (run.totals.ranks.length) {
    let timeline = null;
    const detailed = run.operations.some(({ranks}) => ranks.some(({intervals}) => intervals.class.length));
    if (detailed) timeline = new Timeline(run);
    const choose = (operation) => {
      if (!timeline || !timeline.detailed.includes(operation)) return;
      timeline.chooseOperation(operation);
      timeline.figure.scrollIntoView({block: "nearest", behavior: "smooth"});
    };
    const critical = run.totals.critical_path.operations > 0;
    parts.push(sub("Where the time goes"),
      element("p", {class: "hint"}, `Shares are of ${critical ? "the critical path" : "all ranks' time"}; ` +
        "hatched: the rank stands still.",
        element("span", {class: "screen"}, " A click on a class hides it in all charts and timelines.")),
      classLegend(run),
      barsFigure(run, "Mean of one operation, by rank", rankRows(run)),
      run.totals.ranks.length > maxBars
        ? element("p", {class: "hint"}, `The first ${maxBars} of ${run.totals.ranks.length} ranks.`) : null,
      run.totals.kinds.length > 1
        ? barsFigure(run, "Mean of one operation, by kind", kindRows(run)) : null,
      run.operations.length > 1 ? operationsFigure(run, choose) : null,
      timeline ? timeline.figure
        : element("p", {class: "hint"}, "This recording has no intervals to draw a timeline of."));
  }
  parts.push(list("What this page leaves out", run.left_out, "notes"));
  if (level > 2 && run.findings.length) {  // those of the report's own runs are at its top
    parts.push(sub("What to change"), element("ol", {class: "findings"}, run.findings.map(findingItem)));
  }
  if (run.model) {
    parts.push(sub("Model and measurement"), modelFigure(run.model));
  } else if (run.model_note) {
    parts.push(sub("Model and measurement"), paragraphs(run.model_note, {class: "hint"}));
  }
  parts.push(ranksTable(run), settingsTable(run), countersTable(run));
  if (run.command.length) parts.push(element("h4", {}, "To reproduce"), ...commandList([shellLine(run.command)]));
  return element(level > 2 ? "section" : "article", {class: "run", "aria-labelledby": run.id}, parts);
}

// ---- studies

function studyArticle(study) {
  return element("article", {class: "study", "aria-labelledby": study.id},
    element("p", {class: "kicker"}, "Study ", element("code", {}, study.name)),
    element("h2", {id: study.id}, study.question),
    paragraphs(study.answer, {class: "answer"}),
    study.charts.length
      ? element("div", {class: study.charts.length > 1 ? "charts" : ""}, study.charts.map(chartFigure)) : null,
    study.table.columns.length
      ? table(study.table.columns, study.table.rows, `Table of ${study.name}`) : null,
    list("Notes", study.notes, "notes"),
    list("Measured with", study.devices, "notes"),
    study.commands.length
      ? [element("h4", {}, "To reproduce"), ...commandList(study.commands)] : null,
    study.runs.map((run) => runArticle(run, 3)));
}

function answersSection() {
  if (report.studies.length < 2) return null;
  return element("section", {id: "answers", "aria-labelledby": "answers-title"},
    element("h2", {id: "answers-title"}, "Answers"),
    element("dl", {class: "answers"}, report.studies.map((study) => element("div", {},
      element("dt", {}, element("a", {href: `#${study.id}`}, study.question)),
      element("dd", {}, sentence(study.answer))))));
}

// ---- the page

function contents() {
  const entries = [];
  if (report.runs.some(({findings}) => findings.length)) entries.push(["findings", "What to change"]);
  if (report.studies.length > 1) entries.push(["answers", "Answers"]);
  for (const study of report.studies) entries.push([study.id, study.name.replace(/_/g, " ")]);
  for (const run of report.runs) entries.push([run.id, run.name]);
  return entries.length < 2 ? []
    : [element("ul", {}, entries.map(([id, text]) => element("li", {}, element("a", {href: `#${id}`}, text))))];
}

function buildPage() {
  for (const run of report.runs) run.id = freshId("run");
  for (const study of report.studies) {
    study.id = freshId("study");
    for (const run of study.runs) run.id = freshId("run");
  }
  document.getElementById("masthead").append(element("p", {class: "kicker"}, "Gradwire report"),
    element("h1", {}, report.title), ...paragraphs(report.summary, {class: "summary"}),
    ...paragraphs(report.machine, {class: "machine"}));
  document.getElementById("contents").append(...contents());
  document.getElementById("main").append(...[findingsSection(), answersSection(),
    ...report.studies.map(studyArticle), ...report.runs.map((run) => runArticle(run, 2)),
    element("details", {class: "classes"}, element("summary", {}, "What the classes mean"),
      element("dl", {}, report.classes.map(({name, label, description}) => element("div", {},
        element("dt", {}, swatch(name), label), element("dd", {}, description)))),
      element("p", {}, "Hatched classes are those in which a rank stands still."))]
    .filter((part) => part !== null));
}

buildPage();
