// The filter, and the sections that follow it: scores, sizes, counts by class, the query. `5_pictures.js` draws the pictures.

const ALL = -1;
const POINTS = -1; // as the lowest score: the operating point of each class
const START = { k: ALL, min: POINTS, max: 100, show: "all", cell: null, sort: "varied" };
const TRUE = 0, FALSE = 1, WRONG = 2, SECOND = 3; // as in pipeline/results/truth.py
const SHOWS = [["all", "all pictures"], ["empty", "images without a box"],
  ...(data.evaluation ? [["true", "true boxes"], ["false", "false boxes"], ["missed", "missed objects"], ["wrong", "wrong class"]] : []),
  ...(data.compare ? [["ours", "boxes of this run only"], ["theirs", "boxes of the other run only"]] : [])];
const SORTS = [["varied", "varied"], ["score", "highest score"], ["low", "lowest score"], ["count", "most boxes"], ["name", "name"]];
let filter = { ...START };

// The ends of the slider have no bound: the margins of an SVM lie outside of 0 to 1.
const threshold = (k) => (filter.min === POINTS ? data.points[k] : filter.min === 0 ? -Infinity : filter.min / 100);
const isAbove = ([k, score]) => score >= threshold(k);
const fits = (box) => (filter.k === ALL || filter.k === box[0]) && isAbove(box) && (box[1] < filter.max / 100 || filter.max === 100);
const added = (histograms) => filter.k >= 0 ? histograms[filter.k]
  : histograms[0].map((_, i) => sum(histograms.map((histogram) => histogram[i])));

function setFilter(change) {
  filter = { ...filter, ...change };
  const { k, min, max, show: kind, cell, sort } = filter;
  const words = [];
  if (kind !== "all") words.push(`show=${kind}`);
  if (cell) words.push(`cell=${cell.join(",")}`);
  if (k >= 0) words.push(`class=${encodeURIComponent(data.classes[k])}`);
  if (min !== POINTS) words.push(`from=${min / 100}`);
  if (max < 100) words.push(`to=${max / 100}`);
  if (sort !== "varied") words.push(`sort=${sort}`);
  try { history.replaceState(null, "", words.length ? `#${words.join("&")}` : "#closer"); } catch { /* from disk */ }
  show();
}

// Shows the pictures of a number in a section above: from the operating points on, because it was counted there.
function goTo(change) {
  setFilter({ ...START, sort: filter.sort, ...change });
  $("closer").scrollIntoView();
  $("closer").focus({ preventScroll: true });
}

function fromAddress() {
  const asked = new URLSearchParams(location.hash.slice(1).replaceAll("+", "%2B"));
  const bound = (name, otherwise) => {
    const value = Math.round(100 * parseFloat(asked.get(name)));
    return value >= 0 && value <= 100 ? value : otherwise;
  };
  const known = (list, name, otherwise) => (list.some(([value]) => value === asked.get(name)) ? asked.get(name) : otherwise);
  const cell = (asked.get("cell") || "").split(",").map(Number);
  const inside = (k) => Number.isInteger(k) && k >= BACKGROUND && k < data.classes.length;
  filter = { k: data.classes.indexOf(asked.get("class")), min: bound("from", POINTS), max: bound("to", 100),
    show: known(SHOWS, "show", "all"), sort: known(SORTS, "sort", "varied"),
    cell: data.evaluation && asked.has("cell") && cell.length === 2 && cell.every(inside) ? cell : null };
}

// Counts boxes, and images with such a box, of a class or of all. Exact for each hundredth of the score.
function counts(k) {
  const { min, max } = filter;
  if (min === POINTS && max === 100)
    return k === ALL ? [data.shown, data.images_with_boxes] : [data.class_shown[k], data.class_images[k]];
  // A point lies inside of a bin; of this bin, the boxes from the point on are counted apart.
  const within = (j) => {
    const histogram = data.scores[j], end = max === 100 ? histogram.length : max;
    if (min !== POINTS) return sum(histogram.slice(min, end));
    const place = data.point_bins[j];
    return place < end ? data.at_points[j] + sum(histogram.slice(place + 1, end)) : 0;
  };
  const boxes = sum((k === ALL ? data.classes.map((_, j) => j) : [k]).map(within));
  // With an upper bound, or with another bound for each class, bins of the best score do not give the images.
  if (max < 100 || (min === POINTS && k === ALL)) return [boxes, null];
  return [boxes, sum((k === ALL ? data.best_scores : data.image_scores[k]).slice(min))];
}

const scoreText = () => {
  const { k, min, max } = filter;
  const from = min !== POINTS ? round(min / 100, 2) : k >= 0 ? round(data.points[k], 2) : pointText;
  return max === 100 ? `from score ${from} on` : `with a score from ${from} to ${round(max / 100, 2)}`;
};

function show() {
  const { k, min, max } = filter;
  $("filter-class").value = String(k);
  $("filter-show").value = filter.show;
  $("filter-sort").value = filter.sort;
  const point = k >= 0 ? data.points[k] : lowest;
  const from = min === POINTS ? Math.ceil(100 * point - 1e-9) : min;
  for (const [id, value] of [["filter-min", from], ["filter-max", max]]) {
    $(id).value = value;
    $(id + "-text").textContent = round(value / 100, 2);
  }
  if (min === POINTS) $("filter-min-text").textContent = k >= 0 ? round(point, 2) : pointText;
  classCounts();
  const name = k >= 0 ? `“${data.classes[k]}”` : "all classes";
  const [within, images] = counts(k);
  $("filter-text").replaceChildren(`${plural(within, "box", "boxes")} of ${name}` +
    (images === null ? "" : ` in ${plural(images, "image")}`) + ` ${scoreText()}${data.boxes ? `, ${percent(within, data.boxes)} of all boxes` : ""}.`,
    ...(filter.cell ? [` Pictures: ${nameOf(filter.cell[0])} found as ${nameOf(filter.cell[1])}. `,
      element("button", { type: "button", onclick: () => setFilter({ cell: null }) }, "All pictures")] : []));
  const scores = added(data.scores);
  const total = sum(scores);
  barChart($("score-chart"), {
    values: scores, head: ["Score", "Boxes"], axis: "score",
    lede: `${plural(total, "box", "boxes")} of ${name} of any score, ${number(within)} ${scoreText()}.`,
    says: (i) => [`${round(i / 100, 2)} to ${round((i + 1) / 100, 2)}`, `${plural(scores[i], "box", "boxes")}; ` +
      `${number(sum(scores.slice(i)))} at ${round(i / 100, 2)} or above`],
    dim: (i) => i < from || (max < 100 && i >= max),
    ticks: [0, 0.25, 0.5, 0.75, 1].map((at) => ({ at, text: String(at) })),
  });
  sizes();
  $("query-text").textContent = query();
  pictures();
}

function classCounts() {
  const found = data.classes.map((_, j) => counts(j));
  const most = Math.max(...found.map(([boxes]) => boxes), 1);
  document.querySelectorAll("#class-table tbody tr").forEach((row) => {
    const j = +row.id.slice("class-".length);
    row.classList.toggle("chosen", j === filter.k);
    const bar = row.querySelector(".meter i");
    bar.style.width = `${(100 * found[j][0]) / most}%`;
    bar.style.visibility = found[j][0] ? "visible" : "hidden";
    row.querySelector(".boxes").textContent = number(found[j][0]);
    row.querySelector(".images").textContent = found[j][1] === null ? "–" : number(found[j][1]);
  });
  $("class-text").textContent = `Counts of boxes ${filter.min === POINTS ? `from ${startText} on` : scoreText()}. ` +
    "Choose a class to see its scores, sizes and pictures.";
}

function sizes() {
  const values = added(data.sizes);
  const last = values.length - 1;
  const side = (i) => number(Math.round(2 ** (i / 2)));
  const part = (from, to) => percent(sum(values.slice(from, to)), sum(values));
  barChart($("size-chart"), {
    values, head: ["Side", "Boxes"], axis: "side in pixels of a square with the same area (factor √2 per bar)",
    lede: sum(values) ? `${part(0, 10)} are small: under 32 × 32 pixels, as COCO defines it. Counted from ${startText} on.`
      : `There is no box from ${startText} on.`,
    says: (i) => [side(i) + (i === last ? " px or more" : ` to ${side(i + 1)} px`),
      `${plural(values[i], "box", "boxes")}, ${part(i, i + 1)}`],
    ticks: [0, 6, 10, 14, 18, 22, 26].map((i) => ({ at: i / values.length, text: side(i) })),
  });
}

// --- query ------------------------------------------------------------------------------------

const text = (value) => `'${value.replaceAll("'", "''")}'`;
// DuckDB compares a decimal with a score as float32. A number such as 1e-7 would be a double.
const decimal = (value) => (String(value).includes("e") ? value.toFixed(20) : String(value));

// Gives SQL for DuckDB that lists the boxes of the filter. The page has only some of them.
function query() {
  const { k, min, max } = filter;
  const place = text(data.shards);
  const newest = data.has_generations ? "coalesce(generation, 1) DESC, scored_at DESC" : "scored_at DESC";
  const read = `read_parquet(${place}, union_by_name = true)`;
  const rows = data.older_rows ? `(FROM ${read}
             QUALIFY row_number() OVER (PARTITION BY image_uri
                                        ORDER BY ${newest}) = 1)` : read;
  const where = k >= 0 ? [`box.label = ${text(data.classes[k])}`] : [];
  const point = (j) => decimal(data.points[j]);
  if (min === POINTS) where.push(k === ALL && lowest !== highest
    ? `box.score >= CASE box.label ${data.classes.map((name, j) => `WHEN ${text(name)} THEN ${point(j)}`).join(" ")} END`
    : `box.score >= ${point(k >= 0 ? k : 0)}`);
  else if (min > 0) where.push(`box.score >= ${min / 100}`);
  if (max < 100) where.push(`box.score < ${max / 100}`);
  return `SELECT image_uri, box.label, round(box.score, 3) AS score,
       box.x_min, box.y_min, box.x_max, box.y_max
FROM (SELECT image_uri, unnest(detections) AS box
      FROM ${rows})
${where.length ? `WHERE ${where.join("\n  AND ")}\n` : ""}ORDER BY score DESC;`;
}

async function copy(words, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(words);
  } catch {
    // A page from a disk may have no clipboard. A selected text field can be copied in another way.
    const area = element("textarea", { value: words, readOnly: true, className: "offscreen" });
    (button.closest("dialog") || document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = before; }, 1500);
}
