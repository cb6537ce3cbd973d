// The sections that the filter changes: scores, sizes and pictures. The last lines draw the whole page.

// --- filter ---------------------------------------------------------------------------------------

const EMPTY = -2, ALL = -1;
let filter = { k: ALL, min: 0, max: 100 };
const fits = ([k, score]) => (filter.k === ALL || filter.k === k)
  && score >= filter.min / 100 && (score <= filter.max / 100 || filter.max === 100);
const added = (histograms) => filter.k >= 0 ? histograms[filter.k]
  : histograms[0].map((_, i) => sum(histograms.map((histogram) => histogram[i])));

function setFilter(change) {
  filter = { ...filter, ...change };
  const { k, min, max } = filter;
  const words = [];
  if (k === EMPTY) words.push("show=empty");
  if (k >= 0) words.push(`class=${encodeURIComponent(data.classes[k])}`);
  if (min > 0) words.push(`from=${min / 100}`);
  if (max < 100) words.push(`to=${max / 100}`);
  try { history.replaceState(null, "", words.length ? `#${words.join("&")}` : "#closer"); } catch { /* from disk */ }
  show();
}

function fromAddress() {
  const asked = new URLSearchParams(location.hash.slice(1).replaceAll("+", "%2B"));
  const bound = (name, otherwise) => {
    const value = Math.round(100 * parseFloat(asked.get(name)));
    return value >= 0 && value <= 100 ? value : otherwise;
  };
  const k = data.classes.indexOf(asked.get("class"));
  filter = { k: asked.get("show") === "empty" ? EMPTY : k, min: bound("from", 0), max: bound("to", 100) };
}

function show() {
  const { k, min, max } = filter;
  $("filter-class").value = String(k);
  for (const [id, value] of [["filter-min", min], ["filter-max", max]]) {
    $(id).value = value;
    $(id + "-text").textContent = round(value / 100, 2);
  }
  document.querySelectorAll("#class-table tr").forEach((row) =>
    row.classList.toggle("chosen", row.id === `class-${k}`));
  const name = k >= 0 ? `“${data.classes[k]}”` : "all classes";
  const scores = added(data.scores);
  const within = sum(scores.slice(min, max === 100 ? undefined : max));
  $("filter-text").textContent = k === EMPTY ? `${plural(data.per_image.counts[0], "image")} without a box.`
    : `${plural(within, "box", "boxes")} of ${name}, ${percent(within, data.boxes)} of all boxes.`;
  const total = sum(scores);
  barChart($("score-chart"), {
    values: scores, head: ["Score", "Boxes"], axis: "score",
    lede: `${plural(total, "box", "boxes")} of ${name}; median score ${total ? round(quantile(scores, 0.5), 2) : "–"}.`,
    says: (i) => [`${round(i / 100, 2)} to ${round((i + 1) / 100, 2)}`, `${plural(scores[i], "box", "boxes")}; ` +
      `${number(sum(scores.slice(i)))} at ${round(i / 100, 2)} or above`],
    dim: (i) => i < min || (max < 100 && i >= max),
    ticks: [0, 0.25, 0.5, 0.75, 1].map((at) => ({ at, text: String(at) })),
  });
  const sizes = added(data.sizes);
  const last = sizes.length - 1;
  const side = (i) => number(Math.round(2 ** (i / 2)));
  const share = (from, to) => percent(sum(sizes.slice(from, to)), sum(sizes));
  barChart($("size-chart"), {
    values: sizes, head: ["Side", "Boxes"], axis: "side in pixels of a square with the same area (factor √2 per bar)",
    lede: `${share(0, 10)} are small: under 32 × 32 pixels, as COCO defines it.`,
    says: (i) => [side(i) + (i === last ? " px or more" : ` to ${side(i + 1)} px`),
      `${plural(sizes[i], "box", "boxes")}, ${share(i, i + 1)}`],
    ticks: [0, 6, 10, 14, 18, 22, 26].map((i) => ({ at: i / sizes.length, text: side(i) })),
  });
  pictures();
}

// --- pictures ---------------------------------------------------------------------------------

const LEGEND = 14;
let shown = [];

function overlay(item, boxes) {
  const svg = vector("svg", { viewBox: `0 0 ${item.width} ${item.height}`, preserveAspectRatio: "none",
    "aria-hidden": "true" });
  for (const [k, , x1, y1, x2, y2] of [...boxes].reverse()) {
    const place = { x: x1, y: y1, width: Math.max(x2 - x1, 0), height: Math.max(y2 - y1, 0), fill: "none",
      "vector-effect": "non-scaling-stroke" };
    svg.append(vector("rect", { ...place, class: "under" }),
      vector("rect", { ...place, class: "over", stroke: colour(k), "stroke-dasharray": dashes(k) }));
  }
  return svg;
}

function tags(item, boxes) {
  return boxes.map(([k, score, x1, y1]) => element("span", { className: "tag", style: {
    left: `${Math.min((100 * x1) / item.width, 85)}%`, background: colour(k), color: ink(k),
    ...(y1 / item.height > 0.07 ? { bottom: `${100 - (100 * y1) / item.height}%` }
      : { top: `${(100 * y1) / item.height}%` }),
  } }, `${data.classes[k]} ${round(score, 2)}`));
}

function frame(item, boxes, most) {
  const image = element("img", { src: item.src, alt: "", decoding: "async" });
  return element("span", { className: "frame", style: { aspectRatio: `${item.width} / ${item.height}` } },
    image, overlay(item, boxes), ...(boxes.length <= most ? tags(item, boxes) : []));
}

const counted = (boxes) => {
  const counts = new Map();
  for (const [k] of boxes) counts.set(k, (counts.get(k) || 0) + 1);
  return [...counts].map(([k, count]) => (count > 1 ? `${count} ${data.classes[k]}` : data.classes[k])).join(", ");
};

function pictures() {
  const { items, unseen, left_out } = data.gallery;
  const open = filter.k === ALL && filter.min === 0 && filter.max === 100;
  shown = items.map((item) => ({ item, boxes: item.boxes.filter(fits) }))
    .filter(({ item, boxes }) => filter.k === EMPTY ? !item.boxes.length : open || boxes.length);
  if (filter.k >= 0) shown.sort((a, b) => b.boxes[0][1] - a.boxes[0][1]);
  $("gallery-text").textContent = !items.length ? "No pictures were requested, or none could be read."
    : `${number(shown.length)} of ${plural(items.length, "picture")}. They show the boxes of highest and lowest score ` +
      `of every class. Enter opens a picture; the arrow keys then show the next one.` +
      (left_out ? ` ${plural(left_out, "picture")} did not fit into the page.` : "");
  $("tiles").replaceChildren(...shown.map(({ item, boxes }, i) => {
    const wide = item.width * 3 >= item.height * 4;
    const picture = frame(item, boxes, 4);
    Object.assign(picture.style, wide ? { width: "100%" } : { height: "100%" });
    const words = counted(boxes) || "no box";
    return element("li", {}, element("button", { type: "button", className: "tile", onclick: () => view(i),
      ariaLabel: `${basename(item.uri)}: ${words}` },
    element("span", { className: "holder" }, picture),
    element("span", { className: "caption" }, element("b", { title: item.uri }, basename(item.uri)),
      element("span", {}, words))));
  }));
  const present = new Map();
  for (const { boxes } of shown) for (const [k] of boxes) present.set(k, (present.get(k) || 0) + 1);
  const most = [...present].sort((a, b) => b[1] - a[1]).slice(0, LEGEND).map(([k]) => k);
  $("legend").replaceChildren(...most.map((k) => element("li", {}, key(k), element("bdi", {}, data.classes[k]))),
    ...(present.size > LEGEND ? [element("li", {}, `and ${number(present.size - LEGEND)} more`)] : []));
  $("unseen").replaceChildren();
  if (unseen.length) $("unseen").append(element("details", {}, element("summary", {},
    `${plural(unseen.length, "picture")} could not be read`), ...unseen.map(([name, cause]) =>
    element("p", {}, uri(name), element("bdi", {}, cause)))));
}

let viewed = 0;

function view(i) {
  viewed = (i + shown.length) % shown.length;
  const { item, boxes } = shown[viewed];
  $("viewer-title").textContent = basename(item.uri);
  const picture = frame(item, boxes, 40);
  picture.style.maxWidth = `calc(72vh * ${item.width / item.height})`;
  picture.querySelector("img").alt = counted(boxes) || "no box";
  $("viewer-picture").replaceChildren(picture);
  const rows = boxes.map(([k, score, x1, y1, x2, y2]) => [
    element("span", {}, key(k), element("bdi", {}, data.classes[k])),
    round(score, 3), `${Math.round(x2 - x1)} × ${Math.round(y2 - y1)}`]);
  $("viewer-facts").replaceChildren(uri(item.uri),
    element("p", { className: "lede" }, `${item.width} × ${item.height} pixels, picture ${viewed + 1} of ${shown.length}`),
    element("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Boxes" },
      rows.length ? table(["Class", "Score", "Pixels"], rows) : "No box."));
  if (!$("viewer").open) $("viewer").showModal();
}

function wire() {
  $("filter-class").append(element("option", { value: String(ALL) }, "all"),
    ...data.classes.map((name, k) => element("option", { value: String(k) }, name)),
    element("option", { value: String(EMPTY) }, "— images without a box"));
  $("filter-class").addEventListener("change", (event) => setFilter({ k: Number(event.target.value) }));
  $("filter-min").addEventListener("input", (event) =>
    setFilter({ min: +event.target.value, max: Math.max(filter.max, +event.target.value) }));
  $("filter-max").addEventListener("input", (event) =>
    setFilter({ max: +event.target.value, min: Math.min(filter.min, +event.target.value) }));
  $("filter").addEventListener("reset", (event) => { event.preventDefault(); setFilter({ k: ALL, min: 0, max: 100 }); });
  $("filter").addEventListener("submit", (event) => event.preventDefault());
  $("viewer-back").addEventListener("click", () => view(viewed - 1));
  $("viewer-on").addEventListener("click", () => view(viewed + 1));
  $("viewer-close").addEventListener("click", () => $("viewer").close());
  $("viewer").addEventListener("click", (event) => { if (event.target === $("viewer")) $("viewer").close(); });
  $("viewer").addEventListener("close", () => $("tiles").querySelectorAll("button")[viewed]?.focus());
  $("viewer").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { event.preventDefault(); view(viewed + step); }
  });
  addEventListener("hashchange", () => { if (/[=]/.test(location.hash)) { fromAddress(); show(); } });
}

accuracy();
head();
images();
classes();
time();
failures();
wire();
fromAddress();
show();
document.documentElement.dataset.ready = "yes";
