"use strict";
// Which rows the filters leave; those are handed to the charts and to the table. Text goes in as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const { page: PAGE, many: MANY } = data; // lines of a table at once; more marks than this are drawn on a canvas, not as SVG
const make = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

// ---- tables: columns are buttons that sort; long ones have pages
function table(box, { columns, text, lines }) {
  let order = lines, by = null, down = false, first = 0;
  const collator = new Intl.Collator("en", { numeric: true });
  const heads = columns.map((name, i) => {
    const button = make("button", { type: "button", textContent: name });
    button.addEventListener("click", () => { down = by === i && !down; by = i; first = 0; show(); });
    return make("th", { scope: "col", className: text[i] ? "" : "number" }, button);
  });
  const body = make("tbody");
  const status = make("span", { role: "status" });
  const step = (words, by) => {
    const button = make("button", { type: "button", textContent: words });
    button.addEventListener("click", () => { first += by * PAGE; show(); });
    return button;
  };
  const back = step("previous", -1), on = step("next", 1);
  const pages = make("div", { className: "pages" }, back, on, status);
  box.append(make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body));
  box.before(pages);

  function compare(a, b) {
    const [left, right] = [a.cells[by], b.cells[by]];
    if (text[by]) return collator.compare(left, right) * (down ? -1 : 1);
    const [x, y] = [parseFloat(left), parseFloat(right)];
    if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y); // what is not known stands last, whichever way
    return (x - y) * (down ? -1 : 1);
  }
  function show() {
    const sorted = by === null ? order : [...order].sort(compare);
    first = Math.max(0, Math.min(first, sorted.length - 1));
    heads.forEach((head, i) => (i === by ? head.setAttribute("aria-sort", down ? "descending" : "ascending") : head.removeAttribute("aria-sort")));
    body.replaceChildren(...sorted.slice(first, first + PAGE).map((line) =>
      make("tr", { className: line.status ?? "" }, ...line.cells.map((cell, i) => make("td", { textContent: cell, className: text[i] ? "" : "number" })))));
    const last = Math.min(first + PAGE, sorted.length);
    pages.hidden = sorted.length <= PAGE;
    back.disabled = first === 0;
    on.disabled = last === sorted.length;
    status.textContent = `rows ${first + 1} to ${last} of ${sorted.length}`;
  }
  show();
  return (found) => { order = found; first = 0; show(); };
}

// ---- what a mark says of itself: its line of the table, how sure it is, its place
const interval = (low, high, unit) => (low === null ? "too few samples" : `${low.toPrecision(3)} to ${high.toPrecision(3)} ${unit}`);
function said(value, safe) {
  const facts = value.panel === undefined ? Object.entries(value) : [
    ...data.columns.map((name, i) => [name, value.cells[i]]),
    ["time, 95 % interval", interval(value.ms_low, value.ms_high, "ms")],
    ["top-1, 95 % interval", interval(value.top1_low, value.top1_high, "%")],
    ["here", value.place],
  ];
  return `<table>${facts.map(([name, fact]) => `<tr><td class="key">${safe(name)}</td><td class="value">${safe(fact)}</td></tr>`).join("")}</table>`;
}

// ---- charts: one after another, so that the page answers in between
const pause = () => new Promise((go) => setTimeout(go));
const drawn = new Map(); // box -> Vega view
async function draw(box, spec, label, marks) {
  const options = {
    logLevel: 1, // errors; that a panel has no numbers of the paper is none
    renderer: marks > MANY ? "canvas" : "svg", ast: true, config: { aria: marks <= MANY },
    tooltip: { formatTooltip: said }, actions: { export: true, source: false, compiled: false, editor: false },
    downloadFileName: label.replace(/\W+/g, "-"), loader: { load: () => Promise.reject(new Error("this page loads nothing")) },
  };
  const { view } = await vegaEmbed(box, { ...spec, description: `${label}; the same figures are in the table` }, options);
  drawn.set(box, view);
  dress(view);
}
function dress(view, printed = false) {
  const style = getComputedStyle(document.body);
  view.signal("ink", printed ? "#1d2125" : style.color).signal("rule", printed ? "#d5d9de" : style.borderTopColor).run();
}
const dressAll = (printed) => drawn.forEach((view) => dress(view, printed === true));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", dressAll);
addEventListener("beforeprint", () => dressAll(true));
addEventListener("afterprint", dressAll);
document.getElementById("theme").addEventListener("change", (event) => {
  document.documentElement.dataset.theme = event.target.value;
  dressAll();
});

// ---- trade-offs: a panel for each network, machine and batch
const panels = [];
for (const section of document.querySelectorAll("[data-metric]"))
  for (const which of data.panels) {
    const box = make("div", { className: "chart" });
    const figure = make("figure", {}, make("figcaption", { textContent: which.title }), box);
    section.querySelector(".panels").append(figure);
    panels.push({ metric: section.dataset.metric, words: section.getAttribute("aria-label"), which, box, figure });
  }
const rowsOf = ({ metric, which }, rows) => // each view gets rows of its own: Vega writes into what it is given
  rows.filter((row) => row.panel === which.id && row[metric] !== null && row.top1 !== null).map((row) => ({ ...row }));
const paperOf = ({ which }) =>
  document.getElementById("paper").checked ? data.paper.filter((each) => each.model === which.model).map((each) => ({ ...each })) : [];

function chosen() {
  const form = document.querySelector("#filters form");
  const wanted = new Map();
  for (const box of form.querySelectorAll("fieldset input")) {
    if (!wanted.has(box.name)) wanted.set(box.name, new Set());
    if (box.checked) wanted.get(box.name).add(box.value);
  }
  return data.points.filter((row) => [...wanted].every(([field, values]) => values.has(String(row[field]))));
}
let round = 0;
async function follow(fillTable) {
  const mine = ++round, rows = chosen(), marked = document.getElementById("paper").checked;
  delete document.documentElement.dataset.ready;
  document.getElementById("shown").textContent = `${rows.length} of ${data.points.length} rows shown`;
  fillTable(rows);
  await pause();
  const left = new Map(panels.map((panel) => [panel, rowsOf(panel, rows)]));
  for (const panel of panels) panel.figure.hidden = left.get(panel).length === 0;
  for (const section of document.querySelectorAll("[data-metric]")) {
    section.hidden = !panels.some((panel) => panel.metric === section.dataset.metric && !panel.figure.hidden);
    section.classList.toggle("paper", marked && data.onPaper.includes(section.dataset.metric));
  }
  const far = new Map(panels.map((panel) => [panel, Math.abs(panel.box.getBoundingClientRect().top)]));
  for (const panel of panels.filter((each) => !each.figure.hidden).sort((a, b) => far.get(a) - far.get(b))) {
    if (mine !== round) return; // the filters moved on, and another round is under way
    await show(panel, left.get(panel));
    await pause();
  }
  document.documentElement.dataset.ready = "yes";
}
async function show(panel, rows) {
  if (!drawn.has(panel.box)) {
    const spec = { ...data.specs[panel.metric], datasets: { rows, paper: paperOf(panel) } };
    return draw(panel.box, spec, `${panel.words}: ${panel.which.title}`, rows.length);
  }
  const view = drawn.get(panel.box).data("rows", rows);
  (data.onPaper.includes(panel.metric) ? view.data("paper", paperOf(panel)) : view).run();
}

async function start() {
  if (innerWidth < 832) document.getElementById("filters")?.removeAttribute("open");
  for (const box of document.querySelectorAll("[data-table]:not([data-table=rows])")) table(box, data.tables[box.dataset.table]);
  for (const box of document.querySelectorAll("[data-chart]")) await draw(box, data.charts[box.dataset.chart], box.closest("section").getAttribute("aria-label"), 0);
  const rows = document.querySelector("[data-table=rows]");
  if (!rows) return void (document.documentElement.dataset.ready = "yes");
  const fill = table(rows, { columns: data.columns, text: data.text, lines: data.points });
  const form = document.querySelector("#filters form");
  form.addEventListener("change", () => follow(fill));
  form.addEventListener("reset", () => setTimeout(() => follow(fill)));
  await follow(fill);
}
requestAnimationFrame(() => setTimeout(start)); // the text is on the screen first
