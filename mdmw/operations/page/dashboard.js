// Draws the series of /metrics: reads /metrics every two seconds, and remembers ten minutes in this page only.
"use strict";

const EVERY = 2000; // milliseconds
const MOST_SAMPLES = 300, LEAST_SAMPLES = 60;
const WIDTH = 600, HEIGHT = 150, TOP = 14;

/** The text of Prometheus' exposition format -> {name: [{labels, value}]}. */
function read(text) {
  const series = {};
  for (const line of text.split("\n")) {
    const found = line.match(/^([a-z_:]+)(?:\{(.*)\})? (\S+)/i);
    if (!found) continue;
    const labels = {};
    for (const [, name, value] of (found[2] || "").matchAll(/([a-z_]+)="((?:\\.|[^"\\])*)"/gi)) labels[name] = value;
    (series[found[1]] ||= []).push({ labels, value: Number(found[3]) });
  }
  return series;
}

/** Sums of a series by the values of one label; `keep` says which samples count. */
function sums(series, name, label, keep = () => true) {
  const found = new Map();
  for (const one of series[name] || []) {
    if (!keep(one.labels)) continue;
    const key = label ? one.labels[label] : "";
    found.set(key, (found.get(key) || 0) + one.value);
  }
  return found;
}

/** Growth of a counter in a second. A counter that is smaller than before has started again from 0. */
function rates(now, before, name, label, keep) {
  const new_ = sums(now.series, name, label, keep), old = sums(before.series, name, label, keep);
  const seconds = (now.at - before.at) / 1000;
  return new Map([...new_].map(([key, value]) => {
    const grown = value - (old.get(key) || 0);
    return [key, (grown < 0 ? value : grown) / seconds];
  }));
}

/** The quantile of a histogram between two samples, in seconds; null without observations. */
function quantile(now, before, name, keep, q) {
  const grown = rates(now, before, name + "_bucket", "le", keep);
  const buckets = [...grown].map(([bound, rate]) => [bound === "+Inf" ? Infinity : Number(bound), rate]).sort((a, b) => a[0] - b[0]);
  const total = buckets.length ? buckets[buckets.length - 1][1] : 0;
  if (!total) return null;
  let below = 0, least = 0;
  for (const [bound, rate] of buckets) {
    if (rate >= q * total) return bound === Infinity ? least : least + (bound - least) * (q * total - below) / (rate - below || 1);
    below = rate;
    least = bound;
  }
  return least;
}

const pipelines = (now) => [...sums(now.series, "mdmw_requests_total", "pipeline").keys()].sort();
const single = (now, name) => { const found = now.series[name]; return found ? found.reduce((sum, one) => sum + one.value, 0) : null; };
const total = (map) => [...map.values()].reduce((sum, one) => sum + one, 0);

function quantiles(now, before) {
  const found = new Map();
  for (const pipeline of pipelines(now)) {
    for (const [name, q] of [["p50", .5], ["p99", .99]]) {
      const value = quantile(now, before, "mdmw_request_duration_seconds", (l) => l.pipeline === pipeline, q);
      if (value !== null) found.set(`${pipeline} ${name}`, value);
    }
  }
  return found;
}

function stageMeans(now, before) {
  const time = rates(now, before, "mdmw_stage_duration_seconds_sum", "stage");
  const count = rates(now, before, "mdmw_stage_duration_seconds_count", "stage");
  return new Map([...time].filter(([stage]) => count.get(stage)).map(([stage, value]) => [stage, value / count.get(stage)]));
}

const number = (value) => Number.isInteger(value) ? String(value) : value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
const duration = (value) => value >= 1 ? `${number(value)} s` : value >= .001 ? `${number(value * 1e3)} ms` : `${number(value * 1e6)} µs`;
const age = (at, now) => at === null ? null : Math.max(0, now / 1000 - at);

const CHARTS = [
  ["Requests a second", number, (now, before) => rates(now, before, "mdmw_requests_total", "pipeline")],
  ["Errors a second", number, (now, before) => rates(now, before, "mdmw_errors_total", "error")],
  ["Latency", duration, quantiles],
  ["Mean time in a stage", duration, stageMeans],
  ["Cache look-ups a second", number, (now, before) => rates(now, before, "mdmw_cache_lookups_total", "outcome")],
  ["Requests under way to an upstream", number, (now) => new Map([
    ...[...sums(now.series, "mdmw_upstream_slots_in_use", "upstream")].map(([name, value]) => [`${name} in use`, value]),
    ...[...sums(now.series, "mdmw_upstream_waiting", "upstream")].map(([name, value]) => [`${name} waiting`, value]),
  ])],
];

const TILES = [
  // Of the busiest pipeline: a request that passes a proxy and an agent counts once.
  ["requests a second", number, (now, before) => Math.max(0, ...rates(now, before, "mdmw_requests_total", "pipeline").values()), () => false],
  ["server errors a second", number, (now, before) => total(rates(now, before, "mdmw_requests_total", "", (l) => l.status === "5xx" || l.status === "none")), (value) => value > 0],
  ["waiting for an upstream", number, (now) => single(now, "mdmw_upstream_waiting"), (value) => value > 0],
  ["processes", number, (now) => single(now, "mdmw_processes"), (value) => value === 0],
  ["listeners", number, (now) => single(now, "mdmw_listeners"), () => false],
  ["problems of the plan", number, (now) => single(now, "mdmw_plan_problems"), (value) => value > 0],
  ["since the plan was last applied", duration, (now) => age(single(now, "mdmw_plan_applied_timestamp_seconds"), now.at), (value) => value > 300],
];

function element(name, attributes = {}, ...children) {
  const made = name.startsWith("svg:") ? document.createElementNS("http://www.w3.org/2000/svg", name.slice(4)) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const colours = new Map(); // title of a chart -> colours of its lines
function colour(chart, line) {
  const known = colours.get(chart) || new Map();
  colours.set(chart, known);
  if (!known.has(line)) known.set(line, `var(--c${known.size % 8})`);
  return known.get(line);
}

function chart([title, unit, values], samples) {
  const points = samples.slice(1).map((now, index) => values(now, samples[index]));
  const lines = [...new Set(points.flatMap((one) => [...one.keys()]))];
  const most = Math.max(0, ...points.flatMap((one) => [...one.values()]));
  const x = (index) => WIDTH - (points.length - 1 - index) * WIDTH / (Math.max(points.length, LEAST_SAMPLES) - 1);
  const y = (value) => HEIGHT - (most ? value / most : 0) * (HEIGHT - TOP);
  const drawn = lines.map((line) => {
    let path = "", pen = false;
    points.forEach((one, index) => {
      const value = one.get(line);
      if (value === undefined) { pen = false; return; }
      path += `${pen ? "L" : "M"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = true;
    });
    return element("svg:path", { d: path, style: `stroke: ${colour(title, line)}` });
  });
  const last = points[points.length - 1] || new Map();
  return element("article", {},
    element("h2", {}, title),
    element("svg:svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": title },
      element("svg:line", { class: "grid", x1: 0, x2: WIDTH, y1: TOP, y2: TOP }),
      element("svg:line", { class: "grid", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }),
      ...drawn),
    element("ul", {}, ...(most ? [element("li", { style: "--colour: transparent" }, `top ${unit(most)}`)] : []),
      ...lines.map((line) => element("li", { style: `--colour: ${colour(title, line)}` }, `${line} ${last.has(line) ? unit(last.get(line)) : "–"}`))));
}

function tile([title, unit, value, isBad], now, before) {
  const found = value(now, before);
  if (found === null) return "";
  return element("article", isBad(found) ? { class: "bad" } : {}, element("h2", {}, title), element("b", {}, unit(found)));
}

const samples = [];

async function takeSample() {
  const state = document.getElementById("state");
  try {
    const answer = await fetch("metrics", { cache: "no-store" });
    if (!answer.ok) throw new Error(`/metrics answers ${answer.status}`);
    samples.push({ at: Date.now(), series: read(await answer.text()) });
    if (samples.length > MOST_SAMPLES) samples.shift();
    state.className = "";
    state.textContent = `read at ${new Date().toLocaleTimeString()}`;
    draw();
  } catch (error) {
    state.className = "bad";
    state.textContent = `/metrics cannot be read: ${error.message}`;
  }
  setTimeout(takeSample, EVERY);
}

function draw() {
  const now = samples[samples.length - 1], before = samples[samples.length - 2];
  const build = (now.series.mdmw_build_info || [])[0];
  document.getElementById("build").textContent = build ? `${build.labels.version}, Python ${build.labels.python}` : "";
  if (!before) return;
  document.getElementById("tiles").replaceChildren(...TILES.map((one) => tile(one, now, before)));
  document.getElementById("charts").replaceChildren(...CHARTS.map((one) => chart(one, samples)));
}

if (typeof document !== "undefined") takeSample();
