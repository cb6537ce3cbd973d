// Functions that the other files draw with. Values from data are inserted as text or attributes, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en").format;
const round = (value, digits) => value.toFixed(digits);
const percent = (part, whole) => {
  if (!whole) return "–"; // a share of nothing is no number
  const share = (100 * part) / whole;
  if (share > 0 && share < 0.1) return "<0.1%";
  if (share < 100 && share > 99.9) return ">99.9%";
  return share === 100 ? "100%" : `${round(share, 1)}%`;
};
const sum = (values) => values.reduce((total, value) => total + value, 0);
const plural = (count, one, many) => `${number(count)} ${count === 1 ? one : many || one + "s"}`;
// The name of an image. In an archive it is that of the member, as in pipeline/storage/chains.py.
const CHAIN = /^(tar|zip|parquet):\/\/(.*?)::(.+)$/is;
const basename = (uri) => {
  const chain = CHAIN.exec(uri);
  const part = chain ? chain[2] : uri;
  const name = part.slice(part.lastIndexOf("/") + 1) || part;
  return chain && chain[1].toLowerCase() === "parquet" ? `row ${name} of ${basename(chain[3])}` : name;
};
const byName = (a, b) => [[basename(a), basename(b)], [a, b]].map(([x, y]) => (x < y ? -1 : x > y ? 1 : 0)).find(Boolean) || 0;

// The colours of Okabe and Ito, which colour-blind readers can distinguish. Further classes also change the dashes.
const PALETTE = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"];
const DASHES = ["", "6 3", "2 3", "9 3 2 3"];
const colour = (k) => PALETTE[k % PALETTE.length];
const dashes = (k) => DASHES[Math.floor(k / PALETTE.length) % DASHES.length];
const ink = (k) => ([4, 5].includes(k % PALETTE.length) ? "#fff" : "#000");

const key = (k) => vector("svg", { width: 26, height: 10, "aria-hidden": "true", class: "key" },
  vector("line", { x1: 0, x2: 26, y1: 5, y2: 5, stroke: "#000", "stroke-opacity": 0.6, "stroke-width": 5 }),
  vector("line", { x1: 0, x2: 26, y1: 5, y2: 5, stroke: colour(k), "stroke-width": 3,
    "stroke-dasharray": dashes(k) }));

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "style") Object.assign(made.style, value);
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function vector(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const cells = (tag, values) => values.map((value) => element(tag, {}, value));
const uri = (text) => element("span", { className: "uri" }, text);

function table(head, rows) {
  const right = (cell, i) => { if (i) cell.className = "num"; return cell; };
  return element("table", {},
    element("thead", {}, element("tr", {}, ...cells("th", head).map(right))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...cells("td", row).map(right)))));
}

function numbers(head, rows) {
  const details = element("details", {}, element("summary", {}, "Show the numbers"));
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1)
      details.append(element("div", { className: "scroll" }, table(head, rows())));
  });
  return details;
}

const niceTop = (value) => {
  const unit = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].map((m) => m * unit).find((top) => top >= value);
};

// Draws a bar chart of HTML boxes, so that text keeps its size at any width. The left and right arrow keys move
// from bar to bar and show the numbers of each.
function barChart(host, { values, second, says, lede, ticks, axis, height = 170, head, dim }) {
  host.replaceChildren();
  const totals = values.map((value, i) => value + (second ? second[i] : 0));
  const top = niceTop(Math.max(...totals, 1));
  const readout = element("p", { className: "readout", role: "status" }, lede);
  const bars = element("div", { className: "bars" + (values.length < 20 ? " few" : ""), tabIndex: 0,
    role: "group", ariaLabel: `Bar chart. ${lede} The left and right arrow keys read the bars out.` });
  let here = -1;
  const point = (i) => {
    if (bars.children[here]) bars.children[here].classList.remove("here");
    here = i;
    if (i >= 0) bars.children[i].classList.add("here");
    readout.textContent = i < 0 ? lede : says(i).join(": ");
  };
  values.forEach((value, i) => {
    const parts = [];
    if (second && second[i])
      parts.push(element("i", { className: "second", style: { height: `${(100 * second[i]) / top}%` } }));
    if (value) parts.push(element("i", { style: { height: `max(1px, ${(100 * value) / top}%)` } }));
    const bar = element("div", { className: "bar" + (dim && dim(i) ? " out" : "") }, ...parts);
    bar.addEventListener("pointerenter", () => point(i));
    bars.append(bar);
  });
  bars.addEventListener("pointerleave", () => point(-1));
  bars.addEventListener("blur", () => point(-1));
  bars.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    point(here < 0 && step < 0 ? values.length - 1 : Math.min(Math.max(here + step, 0), values.length - 1));
  });
  const lines = [0.5, 1].map((at) => element("div", { className: "line", style: { top: `${100 * (1 - at)}%` } },
    element("span", {}, short(at * top))));
  const marks = ticks.map(({ at, text, optional }) => element("span", { style: { left: `${100 * at}%` },
    className: (at < 0.02 ? "first" : at > 0.98 ? "last" : "") + (optional ? " optional" : "") }, text));
  host.append(readout,
    element("div", { className: "plot", style: { height: `${height}px` } }, ...lines, bars),
    element("div", { className: "ticks", ariaHidden: "true" }, ...marks),
    element("p", { className: "axis" }, axis),
    numbers(head, () => values.map((_, i) => [i, totals[i]]).filter(([, total]) => total)
      .map(([i]) => says(i))));
}

const short = (value) => value >= 1e9 ? `${+(value / 1e9).toPrecision(3)}G`
  : value >= 1e6 ? `${+(value / 1e6).toPrecision(3)}M`
    : value >= 1e4 ? `${+(value / 1e3).toPrecision(3)}k` : number(+value.toPrecision(3));
