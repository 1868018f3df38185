(() => {
"use strict";
const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const pictures = JSON.parse(byId("images").textContent);
const root = document.documentElement;

// ---- small helpers: text goes in as text, never as HTML

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}
const titleOf = (figure) => [nameOf(figure), own(data.names, figure)?.[1]].filter(Boolean).join(", ");
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
/** What an object read from JSON has under a key, whatever the key is. */
const own = (object, key) => (Object.hasOwn(object, key) ? object[key] : undefined);
const nameOf = (figure) => (own(data.names, figure) || [figure.replaceAll("_", " ")])[0];

function digits(value) {
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return String(value);
  if (size && (size < 1e-3 || size >= 1e5)) return String(Number(value.toPrecision(3)).toExponential()).replace("e+", "e");
  return value.toFixed(size ? Math.max(0, 2 - Math.floor(Math.log10(size))) : 0);
}
const tick = (value) => digits(value).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
function text(value, figure = "") {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (isNumber(value)) return `${digits(value)} ${(own(data.names, figure) || ["", ""])[1]}`.trim();
  return value == null ? "–" : String(value);
}
function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}
/** Labels in the order of numbers, where all are numbers. */
const asNumbers = (labels) =>
  labels.length && labels.every((label) => label.trim() !== "" && isNumber(Number(label)));

// ---- images, each read when it comes near

function place(image) {
  const [, width, height, small] = pictures[image.dataset.i];
  image.style.aspectRatio = `${width} / ${height}`;
  image.classList.toggle("small", small);
  return image;
}
const show = (image) => { image.src = pictures[image.dataset.i][0]; };
const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) { show(entry.target); near.unobserve(entry.target); }
  }
}, { rootMargin: "800px" });
for (const image of document.querySelectorAll("img[data-i]")) near.observe(place(image));

function picture(number, caption, drawn = false) {
  const image = place(make("img", { "data-i": number, alt: caption, class: drawn ? "drawn" : "" }));
  show(image);
  return image;
}

// ---- light and dark

const charts = new Set();
function setTheme(theme) {
  if (theme) root.dataset.theme = theme;
  for (const chart of charts) chart.draw();
}
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches);
try { setTheme(localStorage.getItem("surgeon-theme")); } catch { /* no storage for this file */ }
byId("theme").addEventListener("click", () => {
  const theme = dark() ? "light" : "dark";
  setTheme(theme);
  try { localStorage.setItem("surgeon-theme", theme); } catch { /* kept for this page only */ }
});
systemDark.addEventListener("change", () => setTheme(""));
function colour(name) {
  const probe = make("span", { style: `color: var(--${name})` });
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

// ---- charts: hover or arrow keys read values off, the legend's buttons toggle lines

const DASHES = [[], [6, 4], [2, 3]];
const wanting = new ResizeObserver((entries) => {
  for (const { target } of entries) target.chart?.fit();
});

class Chart {
  /** lines: [{name, points: [[x, y, low, high, count]]}]; ticks: names of x = 0, 1, 2 ... */
  constructor({ title, note = "", xName, lines, ticks = null, log = false }) {
    Object.assign(this, { title, note, xName, lines, ticks, log, off: new Set() });
    this.box = make("div", { class: "draw", tabindex: 0, role: "img" });
    this.box.chart = this;
    this.where = make("p", { class: "where" });
    this.legend = make("div", { class: "legend", role: "group", "aria-label": "Lines" });
    const scale = make("button", { type: "button", class: "mini", "aria-pressed": String(log) }, "log scale");
    scale.addEventListener("click", () => {
      this.log = !this.log;
      scale.setAttribute("aria-pressed", String(this.log));
      this.draw();
    });
    this.heading = make("span", { class: "chart-title" });
    this.element = make("figure", { class: "chart" },
      make("div", { class: "chart-head" }, this.heading, scale), this.box, this.where, this.legend);
    this.box.addEventListener("keydown", (event) => this.key(event));
    this.box.addEventListener("focus", () => { if (this.at == null) this.move(0); });
    charts.add(this);
    wanting.observe(this.box);
  }
  set(lines, ticks, note) {
    Object.assign(this, { lines, ticks, note });
    this.draw();
  }
  close() { charts.delete(this); wanting.unobserve(this.box); this.plot?.destroy(); }
  fit() {
    const width = Math.floor(this.box.clientWidth);
    if (!width) return;
    if (this.plot) { if (this.plot.width !== width) this.plot.setSize({ width, height: 230 }); }
    else this.draw();
  }
  tones() {
    return this.lines.map((_, i) => [colour(`c${i % 6}`), DASHES[Math.floor(i / 6) % 3]]);
  }
  draw() {
    this.heading.replaceChildren(this.title, " ", make("small", {}, this.note));
    this.box.setAttribute("aria-label", `${this.title}, ${this.lines.length} lines over ${this.xName}. Arrow keys read values.`);
    this.plot?.destroy();
    this.plot = null;
    const width = Math.floor(this.box.clientWidth);
    if (!width) return;
    const usable = (y) => isNumber(y) && (!this.log || y > 0);
    const xs = [...new Set(this.lines.flatMap((line) => line.points.map((p) => p[0])))].sort((a, b) => a - b);
    const columns = [xs], series = [{}], bands = [], tones = this.tones();
    this.lines.forEach((line, i) => {
      const at = new Map(line.points.map((p) => [p[0], p]));
      const [stroke, dash] = tones[i];
      const shown = !this.off.has(line.name);
      const ranged = line.points.some((p) => p.length > 3 && p[2] !== p[3]);
      for (const k of ranged ? [1, 3, 2] : [1]) {
        columns.push(xs.map((x) => { const y = at.get(x)?.[k]; return usable(y) ? y : null; }));
        const main = k === 1;
        series.push({
          label: line.name, show: shown, stroke: main ? stroke : "transparent", width: main ? 1.8 : 0,
          dash: main ? dash : [], spanGaps: true, main, number: i,
          points: { show: main && (this.ticks !== null || xs.length <= 40), size: 6, fill: stroke },
          ...(main && this.ticks && !this.joined() ? { paths: () => null } : {}),
        });
      }
      if (ranged) bands.push({ series: [series.length - 2, series.length - 1], fill: stroke.replace(/\)$/, " / 0.14)").replace("rgb(", "rgb(").replaceAll(",", " ") });
    });
    const ink = colour("faint"), line = colour("line");
    const axis = { stroke: ink, font: "11px system-ui, sans-serif", grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1, size: 4 } };
    const ticks = this.ticks;
    this.plot = new uPlot({
      width, height: 230, legend: { show: false }, padding: [10, 14, 0, 0],
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 8 } },
      scales: {
        x: { time: false, range: (_, low, high) => ticks ? [-.35, ticks.length - .65] : low === high ? [low - 1, high + 1] : [low, high] },
        y: { distr: this.log ? 3 : 1 },
      },
      axes: [
        { ...axis, label: this.xName, labelFont: "11px system-ui, sans-serif", labelSize: 14, size: 24, gap: 2,
          ...(ticks ? { splits: () => ticks.map((_, i) => i) } : countable(xs) ? { splits: () => xs } : {}),
          values: ticks ? () => short(ticks, width) : (_, values) => values.map(tick) },
        { ...axis, grid: { ...axis.grid, filter: (_, at) => at.map((v) => !this.log || isPower(v) ? v : null) }, size: 54, gap: 4, values: (_, values) => values.map((v) => (v == null ? "" : tick(v))) },
      ],
      series, bands,
      hooks: { setCursor: [(plot) => this.read(plot.cursor.idx)] },
    }, columns, this.box);
    this.drawLegend(tones);
  }
  joined() { return this.lines.some((line) => line.points.length > 1); }
  drawLegend(tones) {
    this.values = this.lines.map(() => make("span", { class: "at" }));
    this.legend.replaceChildren(...this.lines.map((line, i) => {
      const [stroke, dash] = tones[i];
      const style = `border-color: ${stroke}; border-top-style: ${["solid", "dashed", "dotted"][DASHES.indexOf(dash)]}`;
      return make("button", {
        type: "button", "aria-pressed": String(!this.off.has(line.name)), title: "Show or hide this line",
        onclick: (event) => this.toggle(line.name, event.currentTarget),
      }, make("span", { class: "swatch", style }), make("span", {}, line.name), this.values[i]);
    }));
  }
  toggle(name, button) {
    if (!this.off.delete(name)) this.off.add(name);
    const shown = !this.off.has(name);
    button.setAttribute("aria-pressed", String(shown));
    this.plot?.series.forEach((series, i) => {
      if (i && series.label === name) this.plot.setSeries(i, { show: shown });
    });
  }
  read(index) {
    this.at = index;
    if (!this.plot || !this.values) return;
    const x = index == null ? null : this.plot.data[0][index];
    this.where.textContent = x == null ? "" : `${this.xName} ${this.ticks ? this.ticks[x] : digits(x)}`;
    this.plot.series.forEach((series, i) => {
      if (!series.main) return;
      const y = index == null ? null : this.plot.data[i][index];
      const point = this.lines[series.number].points.find((p) => p[0] === x);
      const spread = point && point.length > 3 && point[2] !== point[3] ? ` (${digits(point[2])} to ${digits(point[3])}, n ${point[4]})` : "";
      this.values[series.number].textContent = isNumber(y) ? digits(y) + spread : "";
    });
  }
  move(index) {
    const xs = this.plot?.data[0];
    if (!xs?.length) return;
    const to = Math.max(0, Math.min(xs.length - 1, index));
    this.plot.setCursor({ left: this.plot.valToPos(xs[to], "x"), top: 20 });
  }
  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    this.move((this.at ?? 0) + step);
  }
}
/** Whole numbers that stand close enough to name each. */
const countable = (xs) => xs.every(Number.isInteger) && xs.length < 14 && xs.at(-1) - xs[0] < 25;
const isPower = (value) => Math.abs(Math.log10(value) - Math.round(Math.log10(value))) < 1e-9;
/** Names short enough to stand side by side. */
function short(names, width) {
  const room = Math.max(3, Math.floor((width - 60) / Math.max(names.length, 1) / 6));
  const every = Math.ceil(names.length / Math.max(1, Math.floor((width - 60) / 34)));
  return names.map((name, i) => i % every ? "" : name.length > room ? `${name.slice(0, room - 1)}…` : name);
}

// ---- cells

const labelOf = (cell, axis, site) =>
  own(cell.labels, axis) ?? (axis === "probe" ? cell.probe : axis === "site" ? site ?? "" : "");

/** The rows of a cell: one for each site. */
function rowsOf(cell) {
  if (cell.run == null) return [];
  return cell.sites.map((site) => [site, own(data.runs[cell.run].figures, site) || {}]);
}
function valueOf(cell, figure) {
  const values = rowsOf(cell).map(([, figures]) => own(figures, figure)).map((v) => typeof v === "boolean" ? Number(v) : v);
  const numbers = values.filter(isNumber);
  return numbers.length ? median(numbers) : values.find((v) => v != null) ?? null;
}
function figuresOf(cells) {
  const numbers = new Set(), texts = new Map();
  for (const cell of cells) {
    for (const [, figures] of rowsOf(cell)) {
      for (const [name, value] of Object.entries(figures)) {
        if (isNumber(value) || typeof value === "boolean") numbers.add(name);
        else if (typeof value === "string") texts.set(name, (texts.get(name) || new Set()).add(value));
      }
    }
  }
  return { numbers: [...numbers], texts: [...texts].filter(([, found]) => found.size > 1 && found.size < 9) };
}

class Section {
  constructor(section) {
    this.section = section;
    this.element = byId(section.id);
    this.cells = section.cells;
    this.items = new Map([...this.element.querySelectorAll(".cell")].map((item) => [Number(item.dataset.n), item]));
    this.sheet = this.element.querySelector(".sheet");
    this.order = this.cells.map((_, i) => i);
    this.visible = [...this.order];
    this.filters = new Map();
    this.sorted = { by: "", down: false };
    this.group = "";
    this.figures = figuresOf(this.cells);
    this.charts = [];
    this.tools();
    this.curves();
    this.sheet.addEventListener("click", (event) => {
      const item = event.target.closest(".cell");
      if (item) panel.open(this, Number(item.dataset.n));
    });
    this.sheet.addEventListener("keydown", (event) => this.key(event));
    this.element.querySelector(".reset").addEventListener("click", () => this.reset());
    this.apply();
  }
  tools() {
    if (this.cells.length < 3) return;
    const box = this.element.querySelector(".tools");
    this.selects = [];
    const choice = (label, options, act) => {
      const select = make("select", {}, ...options.map(([value, name]) => make("option", { value }, name)));
      select.addEventListener("change", () => { act(select.value); this.apply(); });
      const tool = make("label", { class: "tool" }, make("span", {}, label), select);
      return { tool, select };
    };
    const filter = (label, values, test) => {
      const key = this.selects.length;  // an axis and a figure may share a name
      const made = choice(label, [["", "all"], ...values.map((v) => [v, v])], (value) => {
        if (value) this.filters.set(key, (cell) => test(cell, value)); else this.filters.delete(key);
      });
      this.selects.push(made.select);
      box.append(made.tool);
    };
    for (const { name, labels } of this.section.axes) {
      filter(name, labels, (cell, value) => name === "site" ? cell.sites.includes(value) : labelOf(cell, name) === value);
    }
    const states = [...new Set(this.cells.map((cell) => cell.status))];
    if (states.length > 1) filter("status", states, (cell, value) => cell.status === value);
    const beneath = new Set(Object.values(this.section.shown).flat());
    for (const [name, found] of this.figures.texts) {
      if (beneath.has(name)) filter(nameOf(name), [...found].sort(), (cell, value) => rowsOf(cell).some(([, figures]) => own(figures, name) === value));
    }
    const axes = this.section.axes.map(({ name }) => name);
    const keys = [["", "as written"], ...axes.map((name) => [`a:${name}`, name]), ...this.figures.numbers.map((name) => [`f:${name}`, nameOf(name)])];
    const sort = choice("sort by", keys, (value) => { this.sorted.by = value; });
    this.sortSelect = sort.select;
    const flip = make("button", { type: "button", class: "mini flip", "aria-label": "Largest first", "aria-pressed": "false", title: "Largest first" }, "↑");
    flip.addEventListener("click", () => {
      this.sorted.down = !this.sorted.down;
      flip.textContent = this.sorted.down ? "↓" : "↑";
      flip.setAttribute("aria-pressed", String(this.sorted.down));
      this.apply();
    });
    sort.select.remove();
    sort.tool.append(make("span", { class: "pair" }, sort.select, flip));
    box.append(sort.tool);
    if (axes.length) {
      const group = choice("group by", [["", "nothing"], ...axes.map((name) => [name, name])], (value) => { this.group = value; });
      box.append(group.tool);
    }
    const size = make("input", { type: "range", min: 130, max: 560, step: 10, value: 252, "aria-label": "Size of cells" });
    size.addEventListener("input", () => this.sheet.style.setProperty("--cell", `${size.value}px`));
    box.append(make("label", { class: "tool size" }, make("span", {}, "size"), size));
  }
  reset() {
    this.filters.clear();
    for (const select of this.selects || []) select.value = "";
    this.apply();
  }
  compare(a, b) {
    const [kind, name] = [this.sorted.by.slice(0, 1), this.sorted.by.slice(2)];
    if (!kind) return a - b;
    let x, y;
    if (kind === "a") {
      const labels = this.section.axes.find((axis) => axis.name === name).labels;
      const rank = (i) => labels.indexOf(labelOf(this.cells[i], name, this.cells[i].sites[0]));
      [x, y] = [rank(a), rank(b)];
    } else {
      [x, y] = [valueOf(this.cells[a], name), valueOf(this.cells[b], name)];
      if (!isNumber(x) || !isNumber(y)) return isNumber(y) - isNumber(x) || a - b;
    }
    return (this.sorted.down ? y - x : x - y) || a - b;
  }
  apply() {
    const tests = [...this.filters.values()];
    this.visible = this.order.filter((i) => tests.every((test) => test(this.cells[i])));
    this.visible.sort((a, b) => this.compare(a, b));
    if (this.sorted.down && !this.sorted.by) this.visible.reverse();
    const groups = new Map();
    for (const i of this.visible) {
      const label = this.group ? labelOf(this.cells[i], this.group, this.cells[i].sites[0]) : "";
      groups.set(label, [...(groups.get(label) || []), i]);
    }
    this.visible = [...groups.values()].flat();
    const shown = new Set(this.visible);
    for (const [i, item] of this.items) item.hidden = !shown.has(i);
    for (const head of this.sheet.querySelectorAll(".group")) head.remove();
    const parts = [];
    for (const [label, members] of groups) {
      if (this.group) parts.push(make("li", { class: "group", role: "presentation" }, `${this.group}: ${label || "–"}`));
      parts.push(...members.map((i) => this.items.get(i)));
    }
    this.sheet.append(...parts);
    const all = this.cells.length;
    this.element.querySelector(".count").textContent =
      all < 3 ? "" : shown.size === all ? `${all} cells` : `${shown.size} of ${all} cells`;
    this.element.querySelector(".none").hidden = shown.size > 0 || !all;
    for (const entry of this.charts) entry.update();
  }
  /** Medians with their range, of the cells that the filters leave. */
  lines({ figure, along, lines }) {
    const groups = new Map(), order = [];
    const axis = this.section.axes.find(({ name }) => name === along);
    const rows = this.visible.flatMap((i) => rowsOf(this.cells[i]).map(([site, figures]) => [this.cells[i], site, figures]));
    const wanted = axis ? axis.labels : [];
    const known = rows.filter(([, , figures]) => own(figures, figure) != null);  // a probe may say other things of other sites
    const names = [...new Set([...wanted, ...known.map(([cell, site]) => labelOf(cell, along, site))])].filter(Boolean);
    const numeric = asNumbers(names);
    for (const [cell, site, figures] of rows) {
      const raw = own(figures, figure), y = typeof raw === "boolean" ? Number(raw) : raw;
      const label = labelOf(cell, along, site);
      if (!isNumber(y) || !label) continue;
      const line = lines ? labelOf(cell, lines, site) || "–" : nameOf(figure);
      if (!groups.has(line)) { groups.set(line, new Map()); order.push(line); }
      const x = numeric ? Number(label) : names.indexOf(label);
      const points = groups.get(line);
      points.set(x, [...(points.get(x) || []), y]);
    }
    const made = order.map((name) => ({
      name,
      points: [...groups.get(name)].sort((a, b) => a[0] - b[0])
        .map(([x, ys]) => [x, median(ys), Math.min(...ys), Math.max(...ys), ys.length]),
    }));
    const many = made.some((line) => line.points.some((p) => p[4] > 1));
    return { made, ticks: numeric ? null : names, note: many ? "median and range" : "" };
  }
  add(curve, where) {
    const chart = new Chart({ title: titleOf(curve.figure), xName: curve.along, lines: [], log: Boolean(curve.log) });
    const entry = {
      curve,
      update: () => {
        const { made, ticks, note } = this.lines(curve);
        chart.title = titleOf(curve.figure);
        chart.xName = curve.along;
        chart.set(made, ticks, note);
      },
    };
    this.charts.push(entry);
    where.append(chart.element);
    return entry;
  }
  curves() {
    const box = this.element.querySelector(".charts");
    for (const curve of this.section.curves) if (curve.figure && curve.along) this.add(curve, box);
    const axes = this.section.axes.map(({ name }) => name);
    if (!axes.length || !this.figures.numbers.length) return;
    const declared = box.childElementCount;
    const count = ({ labels }) => labels.length + (asNumbers(labels) ? 1000 : 0);
    const widest = this.section.axes.reduce((a, b) => (count(b) > count(a) ? b : a)).name;
    const details = make("details", { class: "own" }, make("summary", {}, declared ? "Draw another figure" : "Draw a figure"));
    details.addEventListener("toggle", () => {
      if (!details.open || details.childElementCount > 1) return;
      const first = own(this.section.shown, this.cells[0].probe)?.find((name) => this.figures.numbers.includes(name));
      const curve = { figure: first || this.figures.numbers[0], along: widest, lines: "" };
      const pick = (label, options, key) => {
        const select = make("select", {}, ...options.map(([value, name]) => make("option", { value, selected: value === curve[key] }, name)));
        select.addEventListener("change", () => { curve[key] = select.value; entry.update(); });
        return make("label", { class: "tool" }, make("span", {}, label), select);
      };
      const named = axes.map((name) => [name, name]);
      details.append(make("div", { class: "tools" },
        pick("figure", this.figures.numbers.map((name) => [name, nameOf(name)]), "figure"),
        pick("along", named, "along"), pick("a line for each", [["", "all in one"], ...named], "lines")));
      const entry = this.add(curve, details);
      entry.update();
    });
    box.after(details);
  }
  /** Arrow keys go through the cells as they lie on the page. */
  key(event) {
    const from = event.target.closest(".cell");
    if (!from || !event.key.startsWith("Arrow") || event.ctrlKey || event.metaKey || event.altKey) return;
    const items = this.visible.map((i) => this.items.get(i));
    const at = items.indexOf(from);
    let to = at + ({ ArrowLeft: -1, ArrowRight: 1 }[event.key] || 0);
    if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      const step = event.key === "ArrowUp" ? -1 : 1;
      const here = from.getBoundingClientRect();
      let best = Infinity, row = null;
      for (let i = at + step; i >= 0 && i < items.length; i += step) {
        const there = items[i].getBoundingClientRect();
        if (Math.abs(there.top - here.top) < 4) continue;
        if (row !== null && Math.abs(there.top - row) > 4) break;
        row = there.top;
        const apart = Math.abs(there.left - here.left);
        if (apart < best) { best = apart; to = i; }
      }
    }
    if (to === at || !items[to]) return;
    event.preventDefault();
    items[to].querySelector(".open").focus();
  }
}

// ---- the panel of a run

const panel = {
  dialog: byId("panel"),
  charts: [],
  open(section, number) {
    this.section = section;
    this.show(number);
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.scrollTop = 0;
    this.dialog.querySelector(".close").focus();
  },
  show(number) {
    this.number = number;
    const cell = this.section.cells[number];
    const run = cell.run == null ? null : data.runs[cell.run];
    for (const chart of this.charts) chart.close();
    this.charts = [];
    const left = make("div"), right = make("div");
    if (run) { this.seen(cell, run, left); this.said(cell, run, right); } else left.append(make("p", { class: "why" }, cell.why || cell.error.join("\n") || cell.status));
    this.dialog.replaceChildren(this.bar(cell, run), make("div", { class: "inside" }, left, right));
    history.replaceState(null, "", `#${this.section.section.id}-${number}`);
  },
  bar(cell, run) {
    const order = this.section.visible, at = order.indexOf(this.number);
    const labels = Object.entries(cell.labels).map(([name, label]) => `${name} ${label}`);
    const site = cell.sites.length === 1 ? [cell.sites[0]] : [];
    const title = [...labels, ...site].join(", ") || run?.name || cell.probe;
    const go = (step, sign, name) => make("button", {
      type: "button", "aria-label": name, title: name, disabled: order[at + step] === undefined,
      class: step < 0 ? "previous" : "next", onclick: () => this.step(step),
    }, sign);
    return make("div", { class: "bar" },
      make("h2", { id: "panel-title" }, title),
      order.length > 1 ? make("span", { class: "at" }, `${at + 1} of ${order.length}`) : null,
      order.length > 1 ? go(-1, "←", "Previous cell") : null,
      order.length > 1 ? go(1, "→", "Next cell") : null,
      make("button", { type: "button", class: "close", "aria-label": "Close", title: "Close (Esc)", onclick: () => this.dialog.close() }, "✕"));
  },
  step(step) {
    const order = this.section.visible;
    const to = order[order.indexOf(this.number) + step];
    if (to === undefined) return;
    const name = document.activeElement?.className;
    this.show(to);
    const again = name && this.dialog.querySelector(`.bar .${name}:not(:disabled)`);
    (again || this.dialog.querySelector(".close")).focus();
  },
  part(title, ...children) {
    return make("section", {}, make("h3", {}, title), ...children);
  },
  seen(cell, run, box) {
    const { images } = run.views[cell.view];
    if (images.length) {
      const shots = images.map(([caption, i]) =>
        make("span", { class: "shot" }, picture(i, caption), make("span", { class: "caption" }, caption)));
      const part = make("section", {}, make("div", { class: `images n${Math.min(images.length, 4)}` }, ...shots));
      const kept = cell.sites.length === 1 ? own(run.snapshots, cell.sites[0]) : null;
      if (kept?.length) part.append(this.slider(kept, images.at(-1)[1], shots.at(-1).querySelector("img")));
      box.append(part);
      if (!kept) this.sliders(run, images, shots);
    }
    this.curves(cell, run, box);
    if (run.picture != null) box.append(this.part("The probe’s picture", make("div", { class: "images n1" }, make("span", { class: "shot" }, picture(run.picture, `Picture by ${run.probe}`, true)))));
  },
  /** One slider for images that stand side by side and have the same steps. */
  sliders(run, images, shots) {
    const steps = images.map(([caption]) => own(run.snapshots, caption)).filter(Boolean);
    if (!steps.length) return;
    const first = steps[0].map(([step]) => step);
    const swap = (n) => images.forEach(([caption, last], i) => {
      const image = shots[i].querySelector("img"), kept = own(run.snapshots, caption);
      image.dataset.i = kept && n < kept.length ? kept[n][1] : last;
      show(place(image));
    });
    shots[0].parentElement.after(this.range(first, swap));
  },
  slider(kept, last, image) {
    return this.range(kept.map(([step]) => step), (n) => {
      image.dataset.i = n < kept.length ? kept[n][1] : last;
      show(place(image));
    });
  },
  range(steps, swap) {
    const out = make("output", {}, "at the end");
    const input = make("input", { type: "range", min: 0, max: steps.length, value: steps.length, step: 1, "aria-label": "Step of the run" });
    input.addEventListener("input", () => {
      const n = Number(input.value);
      out.textContent = n < steps.length ? `after ${steps[n]}` : "at the end";
      input.setAttribute("aria-valuetext", out.textContent);
      swap(n);
    });
    return make("label", { class: "steps" }, make("span", {}, "step"), input, out);
  },
  curves(cell, run, box) {
    const { over, curves } = run.log;
    const keys = Object.keys(curves);
    if (!keys.length) return;
    const holder = make("div");
    const buttons = new Map();
    const draw = (key) => {
      for (const chart of this.charts) chart.close();
      for (const [name, button] of buttons) button.setAttribute("aria-pressed", String(name === key));
      const all = Object.entries(curves[key]).map(([name, points]) => ({ name, points }));
      const own = all.filter(({ name }) => cell.sites.some((site) => name === site));
      const lines = own.length ? own : all;
      const values = lines.flatMap(({ points }) => points.map((p) => p[1]));
      const log = values.every((v) => v > 0) && Math.max(...values) > 30 * Math.min(...values);
      const chart = new Chart({ title: titleOf(key), xName: over === "gradient_evaluations" ? "gradient evaluations" : over, lines, log });
      this.charts = [chart];
      holder.replaceChildren(chart.element);
    };
    for (const key of keys) buttons.set(key, make("button", { type: "button", class: "mini", onclick: () => draw(key) }, nameOf(key)));
    const part = this.part("On the way", make("div", { class: "quantities", role: "group", "aria-label": "Quantity" }, ...(keys.length > 1 ? buttons.values() : [])), holder);
    box.append(part);
    draw(keys[0]);
  },
  said(cell, run, box) {
    const rows = rowsOf(cell);
    if (rows.length === 1) {
      box.append(this.part("Figures", make("table", { class: "keys" }, ...Object.entries(rows[0][1]).map(([name, value]) =>
        make("tr", {}, make("th", { scope: "row", title: name }, nameOf(name)), make("td", {}, text(value, name)))))));
    } else if (rows.length) {
      const names = [...new Set(rows.flatMap(([, figures]) => Object.keys(figures)))];
      const across = names.length > rows.length && rows.length < 5
        ? grid(["", ...rows.map(([site]) => site)], names.map((name) => [nameOf(name), ...rows.map(([, figures]) => own(figures, name))]))
        : grid(["", ...names.map(nameOf)], rows.map(([site, figures]) => [site, ...names.map((name) => own(figures, name))]));
      box.append(this.part("Figures", across));
    }
    if (run.notes.length) box.append(this.part("Notes", make("ul", { class: "notes" }, ...run.notes.map((note) => make("li", {}, note)))));
    if (run.recipe) {
      const pre = make("pre", { tabindex: 0 }, run.recipe);
      const copy = make("button", { type: "button", class: "mini copy" }, "copy");
      copy.addEventListener("click", () => copyText(run.recipe, pre, copy));
      const part = this.part("Recipe", pre);
      part.querySelector("h3").append(copy);
      box.append(part);
    }
    for (const { name, columns, rows: lines, of } of run.tables) {
      box.append(make("details", {}, make("summary", {}, `Table: ${name} (${lines.length < of ? `${lines.length} of ` : ""}${of} rows)`),
        grid(columns.map((column) => column.replaceAll("_", " ")), lines)));
    }
    const about = [["probe", run.probe], ["model", run.model], ...(run.operations.length ? [["operations", run.operations.join("; ")]] : []), ...(run.path ? [["folder", run.path]] : []), ...run.about];
    box.append(make("details", {}, make("summary", {}, "How it came about"),
      make("table", { class: "about" }, ...about.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value))))));
  },
};
function grid(heads, rows) {
  const cellOf = (value) => {
    const shown = text(value);
    return make("td", { class: shown.length > 60 ? "prose" : "" }, shown);
  };
  return make("div", { class: "scroll", tabindex: 0 }, make("table", {},
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map(cellOf))))));
}
async function copyText(content, pre, button) {
  let done = true;
  try {
    await navigator.clipboard.writeText(content);
  } catch {
    getSelection().selectAllChildren(pre);
    done = document.execCommand("copy");
  }
  button.textContent = done ? "copied" : "select and copy by hand";
  setTimeout(() => { button.textContent = "copy"; }, 1600);
}
panel.dialog.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || event.target.closest("input, select, pre, .draw, .scroll")) return;
  event.preventDefault();
  panel.step(step);
});
panel.dialog.addEventListener("click", (event) => { if (event.target === panel.dialog) panel.dialog.close(); });
panel.dialog.addEventListener("close", () => {
  for (const chart of panel.charts) chart.close();
  panel.charts = [];
  panel.dialog.replaceChildren();
  history.replaceState(null, "", " ");
  panel.section.items.get(panel.number)?.querySelector(".open").focus();
});

// ---- findings by verdict

const off = new Set();
for (const button of document.querySelectorAll("button[data-verdict]")) {
  button.addEventListener("click", () => {
    const verdict = button.dataset.verdict;
    if (!off.delete(verdict)) off.add(verdict);
    button.setAttribute("aria-pressed", String(!off.has(verdict)));
    for (const finding of document.querySelectorAll(".finding")) finding.hidden = off.has(finding.dataset.verdict);
    for (const group of document.querySelectorAll(".study-findings")) {
      group.hidden = [...group.querySelectorAll(".finding")].every((finding) => finding.hidden);
    }
    for (const mark of document.querySelectorAll(".glance .mark")) mark.parentElement.hidden = off.has(mark.getAttribute("aria-label"));
    for (const row of document.querySelectorAll(".glance li")) {
      row.hidden = [...row.querySelectorAll(".chip")].every((chip) => chip.hidden);
    }
    data.sections.forEach((section) => {
      const verdicts = section.findings.map((finding) => finding.verdict);
      byId(section.id).hidden = verdicts.length > 0 && verdicts.every((v) => off.has(v));
    });
  });
}

// On a phone there is room for the cells or for the tools.
if (matchMedia("(max-width: 760px)").matches) {
  for (const details of document.querySelectorAll(".sorting")) details.open = false;
}
const sections = new Map(data.sections.map((section) => [section.id, new Section(section)]));
const [, id, number] = location.hash.match(/^#(s\d+)-(\d+)$/) || [];
if (sections.get(id)?.cells[Number(number)]) panel.open(sections.get(id), Number(number));
root.dataset.ready = "yes";
})();
