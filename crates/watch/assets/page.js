"use strict";
const COLORS = ["#2f6fde", "#d9622b", "#2c9b5b", "#a04fc4", "#c4432b", "#1f9aa8", "#8a6d1f", "#d0449a"];
const color = i => COLORS[i % COLORS.length];
const byId = id => document.getElementById(id);
const make = (tag, text, cls) => {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  if (cls) e.className = cls;
  return e;
};
const fixed = (v, n) => (v === null || v === undefined || !isFinite(v) ? "–" : v.toFixed(n));
const clock = s => {
  if (s === null || s === undefined || !isFinite(s)) return "–";
  s = Math.round(s);
  const two = n => String(n).padStart(2, "0");
  const [h, m] = [Math.floor(s / 3600), Math.floor(s / 60) % 60];
  return h > 0 ? `${h}:${two(m)}:${two(s % 60)}` : `${m}:${two(s % 60)}`;
};

/* What a run is doing, by its last line. */
function state(run, now, live) {
  const { last, start } = run;
  if (!last) return run.epochs.length ? "no steps recorded" : "not begun";
  if (start && last.done >= start.total) return "finished";
  const age = now - last.time;
  if (!live) return "stopped";
  return age < 60 ? "running" : `no step for ${clock(age)}`;
}

function card(run, i, data) {
  const e = make("div", undefined, "run");
  e.style.setProperty("--color", color(i));
  e.append(make("b", run.name), make("div", state(run, data.time, data.live), "soft"));
  const { last, start } = run;
  const epoch = run.epochs[run.epochs.length - 1] || {};
  const rows = [];
  if (last && start) {
    const bar = make("div", undefined, "bar");
    const inner = make("div");
    inner.style.width = `${(100 * last.done) / Math.max(1, start.total)}%`;
    bar.append(inner);
    e.append(bar);
    rows.push(["step", `${last.done} of ${start.total}`], ["epoch", fixed(last.at, 2)]);
    rows.push(["loss", fixed(last.loss, 4)], ["learning rate", last.lr === null ? "–" : last.lr.toExponential(2)]);
    rows.push(["images per second", fixed(last.rate, 0)], ["waiting for data", `${fixed(100 * last.wait, 0)} %`]);
    if (last.done < start.total) rows.push(["time left", clock(last.left)]);
    rows.push(["training images", String(start.samples)]);
    if ((start.classes || []).length) rows.push(["classes", String(start.classes.length)]);
  }
  const best = key => Math.max(...run.epochs.map(l => l[key]).filter(v => typeof v === "number"));
  if ("test_acc1" in epoch) rows.push(["top-1, last and best", `${fixed(epoch.test_acc1, 2)}  ${fixed(best("test_acc1"), 2)} %`]);
  if (run.statistics && run.statistics.normalize) {
    const n = run.statistics.normalize;
    rows.push(["means of the data", n.mean.join(" ")], ["deviations", n.std.join(" ")]);
  }
  const list = make("dl");
  rows.forEach(([name, text]) => list.append(make("dt", name), make("dd", text)));
  e.append(list);
  if (run.skipped) e.append(make("div", `${run.skipped} updates were not finite and were skipped`, "warn"));
  return e;
}

/* A chart: for each run any number of lines [label, xs, ys, points only]. */
const CHARTS = [
  { title: "loss", lines: r => [
    ["", r.curves.at, r.curves.loss],
    ["test", ends(r), column(r, "test_loss"), true],
  ] },
  { title: "accuracy on held-out images, %", lines: r => [
    ["top-1", ends(r), column(r, "test_acc1"), true],
    ["averaged", ends(r), column(r, "ema_acc1"), true],
  ] },
  { title: "learning rate", lines: r => [["", r.curves.at, r.curves.lr]] },
  { title: "images per second", lines: r => [["", r.curves.at, r.curves.rate]] },
  { title: "norm of the gradients", lines: r => [["", r.curves.at, r.curves.norm]] },
  { title: "share of time waiting for data, %", lines: r => [["", r.curves.at, r.curves.wait.map(v => (v === null ? null : 100 * v))]] },
];
const ends = r => r.epochs.map(l => l.epoch + 1);
const column = (r, key) => r.epochs.map(l => (typeof l[key] === "number" ? l[key] : null));
const some = ys => ys.some(v => v !== null && v !== undefined);

function chart(def, runs, width) {
  const series = [{ label: "epoch", value: (u, v) => fixed(v, 2) }];
  const tables = [];
  runs.forEach((run, i) => {
    def.lines(run).filter(l => some(l[2])).forEach(([label, xs, ys, points]) => {
      // x values must ascend; curves of a run do, but for lines that have none.
      const pairs = xs.map((x, k) => [x, ys[k]]).filter(p => p[0] !== null);
      tables.push([pairs.map(p => p[0]), pairs.map(p => p[1])]);
      const name = runs.length > 1 ? `${run.name} ${label}`.trim() : label || def.title;
      series.push({
        label: name, stroke: color(i), width: points ? 2 : 1.25, spanGaps: true,
        dash: label && label !== "top-1" ? [6, 3] : undefined,
        points: { show: points === true, size: 6 },
        value: (u, v) => (v === null || v === undefined ? "–" : Math.abs(v) < 0.01 && v !== 0 ? v.toExponential(2) : v.toPrecision(5)),
      });
    });
  });
  if (!tables.length) return null;
  const box = make("div", undefined, "chart");
  box.append(make("h2", def.title));
  const style = getComputedStyle(document.body);
  const text = style.getPropertyValue("--soft").trim(), grid = style.getPropertyValue("--line").trim();
  const axis = { stroke: text, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 } };
  const options = {
    width, height: 230, series, scales: { x: { time: false } },
    axes: [{ ...axis }, { ...axis, size: 64, values: (u, vs) => vs.map(v => (v !== 0 && Math.abs(v) < 1e-3 ? v.toExponential(0) : String(+v.toPrecision(6)))) }],
  };
  new uPlot(options, uPlot.join(tables), box);
  return box;
}

function flat(value, path, out) {
  if (value !== null && typeof value === "object" && !Array.isArray(value)) {
    Object.entries(value).forEach(([k, v]) => flat(v, path ? `${path}.${k}` : k, out));
  } else {
    out[path] = JSON.stringify(value);
  }
  return out;
}

function settings(runs) {
  const all = runs.map(r => flat({ plan: (r.start || {}).plan || {}, config: (r.start || {}).config || {} }, "", {}));
  const keys = [...new Set(all.flatMap(Object.keys))];
  if (!keys.length) return [];
  const table = make("table");
  const head = make("tr");
  head.append(make("th", ""), ...runs.map(r => make("th", r.name)));
  table.append(head);
  keys.forEach(key => {
    const row = make("tr");
    const values = all.map(a => (key in a ? a[key] : "–"));
    if (new Set(values).size > 1) row.className = "differs";
    row.append(make("th", key), ...values.map(v => make("td", v)));
    table.append(row);
  });
  const box = make("div", undefined, "wide");
  box.append(table);
  return [make("h2", "settings"), box];
}

function pictures(runs) {
  const out = [];
  runs.forEach(run => run.pictures.forEach(p => {
    const figure = make("figure"), image = make("img");
    image.src = p.place;
    image.alt = `${p.name} of ${run.name}`;
    figure.append(make("figcaption", `${run.name}: ${p.name}`, "soft"), image);
    out.push(figure);
  }));
  return out.length ? [make("h2", "pictures"), ...out] : [];
}

let shown = "";
function show(data) {
  document.title = data.runs.map(r => r.name).join(", ");
  byId("runs").replaceChildren(...data.runs.map((r, i) => card(r, i, data)));
  const columns = Math.max(1, Math.floor((document.body.clientWidth + 12) / 602));
  const width = Math.floor(document.body.clientWidth / columns) - 34 - 12;
  const charts = CHARTS.map(c => chart(c, data.runs, width)).filter(c => c !== null);
  byId("charts").replaceChildren(...charts);
  // Pictures and tables are only made anew where they changed, so that nobody loses his place.
  const now = JSON.stringify(data.runs.map(r => [r.pictures, r.start]));
  if (now !== shown) {
    shown = now;
    byId("pictures").replaceChildren(...pictures(data.runs));
    byId("settings").replaceChildren(...settings(data.runs));
  }
  document.body.dataset.charts = String(charts.length);
}

let latest = DATA;
window.addEventListener("resize", () => show(latest));
show(DATA);
if (!DATA.live) {
  byId("state").textContent = `written ${new Date(DATA.time * 1000).toLocaleString()}`;
} else {
  const events = new EventSource("events");
  events.onmessage = e => {
    latest = JSON.parse(e.data);
    document.body.dataset.events = String(1 + Number(document.body.dataset.events || 0));
    byId("state").textContent = `as of ${new Date(latest.time * 1000).toLocaleTimeString()}`;
    show(latest);
  };
  events.onerror = () => { byId("state").textContent = "the server has gone; waiting for it"; };
}
