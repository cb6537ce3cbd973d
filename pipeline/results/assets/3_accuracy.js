// The sections about labels and about another run: accuracy, confusion, comparison.

const BACKGROUND = -1;
const MATRIX = 20; // with more classes, the most frequent pairs are listed instead
const PAIRS = 40;
const nameOf = (k) => (k === BACKGROUND ? "background" : data.classes[k]);
const share = (part, whole) => (whole ? part / whole : null);

function accuracy() {
  const result = data.evaluation;
  if (!result) return;
  $("accuracy").hidden = false;
  const list = result.classes.filter((row) => row.objects).sort((a, b) => b.voc07 - a.voc07);
  const at = new Map(list.map((row) => {
    const [right, wrong, missed] = row.counts;
    return [row, { precision: share(right, right + wrong), recall: share(right, right + missed) }];
  }));
  const svg = vector("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img",
    "aria-label": "Precision against recall, one line per class. The table has the areas under the lines." });
  const marks = element("div", { className: "marks", ariaHidden: "true" });
  const draw = (chosen) => {
    const strong = (row) => (chosen === null ? list.length < 9 : chosen === row);
    svg.replaceChildren(...list.map((row) => {
      const k = data.classes.indexOf(row.name);
      const points = row.curve.map((p, i) => `${i},${100 - 100 * p}`).join(" ");
      return vector("polyline", { points, fill: "none", stroke: colour(k), "stroke-dasharray": dashes(k),
        "stroke-width": strong(row) ? 2.6 : 1.4, opacity: strong(row) ? 1 : 0.3, "vector-effect": "non-scaling-stroke" });
    }));
    marks.replaceChildren(...list.filter((row) => strong(row) && at.get(row).precision !== null).map((row) => {
      const { precision, recall } = at.get(row);
      return element("i", { title: `${row.name}: precision ${round(precision, 2)}, recall ${round(recall, 2)}`, style: {
        left: `${100 * recall}%`, top: `${100 - 100 * precision}%`, background: colour(data.classes.indexOf(row.name)) } });
    }));
  };
  draw(null);
  const lines = [0.25, 0.5, 0.75, 1].map((y) => element("div",
    { className: "line", style: { top: `${100 - 100 * y}%` } }, element("span", {}, String(y))));
  const body = list.map((row) => {
    const k = data.classes.indexOf(row.name);
    const name = element("button", { type: "button", className: "class", onclick: () => goTo({ k }) },
      key(k), element("bdi", {}, row.name));
    const { precision, recall } = at.get(row);
    const made = element("tr", {}, element("td", {}, name), ...[number(row.objects), two(precision), two(recall), mean(row.voc07),
      mean(row.voc10), mean(row.coco)].map((text, i) => element("td", { className: i > 3 ? "num optional" : "num" }, text)));
    for (const [target, enter, leave] of [[made, "pointerenter", "pointerleave"], [name, "focus", "blur"]]) {
      target.addEventListener(enter, () => draw(row));
      target.addEventListener(leave, () => draw(null));
    }
    return made;
  });
  const { true: right, false: wrong, missed } = result;
  const all = [number(sum(list.map((row) => row.objects))), two(share(right, right + wrong)), two(share(right, right + missed)),
    mean(result.voc07), mean(result.voc10), mean(result.coco)];
  const means = element("tr", {}, element("th", { scope: "row" }, "all"),
    ...all.map((text, i) => element("td", { className: i > 3 ? "num optional" : "num" }, text)));
  const titles = ["Class", "Objects", "Precision", "Recall", "VOC07", "VOC10", "COCO"];
  $("accuracy-body").append(
    element("p", { className: "lede" }, `${plural(result.images, "labelled image")} of split ${lastPart(result.split)}. ` +
      `Precision and recall are those from ${startText} on, and marked by a dot. The other columns are average ` +
      "precision over all scores, at IoU 0.5; for COCO at 0.5 to 0.95." +
      (result.left_out.length ? " Not measured, because the detector does not have the class: " +
        `${result.left_out.map(([name, count]) => `${name} (${plural(count, "object")})`).join(", ")}.` : "")),
    element("div", { className: "two" },
      element("div", {}, element("div", { className: "pr" }, ...lines, svg, marks),
        element("div", { className: "ticks", ariaHidden: "true" }, ...[0, 0.5, 1].map((x) => element("span",
          { style: { left: `${100 * x}%` }, className: x ? x === 1 ? "last" : "" : "first" }, String(x)))),
        element("p", { className: "axis" }, "horizontal: recall; vertical: precision")),
      element("div", { className: "scroll" }, element("table", {},
        element("thead", {}, element("tr", {}, ...titles.map((text, i) =>
          element("th", { className: i > 4 ? "num optional" : i ? "num" : "" }, text)))),
        element("tbody", {}, ...body, means)))));
  confused(result);
}

const two = (value) => (value === null ? "–" : round(value, 2));

// --- confusion --------------------------------------------------------------------------------

function confused(result) {
  const counts = new Map(result.confusion.map(([a, b, count]) => [`${a},${b}`, count]));
  const present = data.classes.map((_, k) => k).filter((k) =>
    result.confusion.some(([a, b]) => a === k || b === k));
  const host = element("div", { className: "confusion" }, element("h3", {}, "What objects were taken for"));
  const cell = (a, b, count, text) => element("button", { type: "button", className: "cell", onclick: () => goTo({ cell: [a, b] }),
    ariaLabel: `${plural(count, "picture detail")}: ${nameOf(a)} found as ${nameOf(b)}. Show pictures.` }, text);
  if (present.length <= MATRIX) host.append(matrix(present, counts, cell));
  else {
    const pairs = result.confusion.filter(([a, b]) => a !== b).sort((a, b) => b[2] - a[2]);
    host.append(element("div", { className: "scroll" }, table(["Object", "Found as", "Count"], pairs.slice(0, PAIRS)
      .map(([a, b, count]) => [element("bdi", {}, nameOf(a)), element("bdi", {}, nameOf(b)), cell(a, b, count, number(count))]))));
    if (pairs.length > PAIRS) host.append(element("p", { className: "lede" },
      `${number(pairs.length - PAIRS)} further pairs are less frequent. confusion.parquet of jobs/evaluate.py has all.`));
  }
  host.append(element("p", { className: "lede" }, "Rows: labelled objects. Columns: boxes. Column “background”: missed objects. " +
    "Row “background”: boxes on no object, and second boxes of one object. Choose a number to see its pictures."));
  $("accuracy-body").append(host);
}

function matrix(present, counts, cell) {
  const order = [...present, BACKGROUND];
  const total = (a) => sum(order.map((b) => counts.get(`${a},${b}`) || 0));
  const head = element("tr", {}, element("th", {}, "object \\ box"), ...order.map((b) =>
    element("th", { className: "num", scope: "col" }, element("bdi", { title: nameOf(b) }, nameOf(b)))));
  const rows = order.map((a) => element("tr", {},
    element("th", { scope: "row" }, element("bdi", { title: nameOf(a) }, nameOf(a))),
    ...order.map((b) => {
      const count = counts.get(`${a},${b}`) || 0;
      const part = count / Math.max(total(a), 1);
      const made = element("td", { className: a === b ? "num right" : "num" },
        count ? cell(a, b, count, number(count)) : a === b && a === BACKGROUND ? "" : "0");
      if (count) made.style.setProperty("--part", `${Math.round(8 + 52 * part)}%`);
      if (!count) made.classList.add("none");
      return made;
    })));
  return element("div", { className: "scroll" }, element("table", { className: "matrix" },
    element("thead", {}, head), element("tbody", {}, ...rows)));
}

// --- comparison -------------------------------------------------------------------------------

function comparison() {
  const other = data.compare;
  if (!other) return;
  $("comparison").hidden = false;
  const ok = (statuses) => (new Map(statuses).get("ok") || 0);
  const rows = [
    ["Run", data.run_id, other.run_id],
    ["Model", data.model_id, other.model_id],
    ["Images", number(data.images), number(other.images)],
    ["Images with a result", number(withResult), number(ok(other.statuses))],
    ["Images with a box", number(data.images_with_boxes), number(other.images_with_boxes)],
    [`Boxes, from ${data.has_points || other.has_points ? "the operating points" : "score 0.5"} on`, number(data.shown), number(other.shown)],
  ];
  if (other.evaluation) {
    const of = (result) => [two(share(result.true, result.true + result.false)), two(share(result.true, result.true + result.missed)),
      mean(result.voc07)];
    const [ours, theirs] = [of(data.evaluation), of(other.evaluation)];
    ["Precision", "Recall", "mAP (VOC07)"].forEach((name, i) => rows.push([name, ours[i], theirs[i]]));
  }
  const agreed = sum(other.classes.map((row) => row[1]));
  const [mine, others] = [2, 3].map((i) => sum(other.classes.map((row) => row[i])));
  const all = agreed + mine + others;
  $("comparison-body").append(
    element("p", { className: "lede" }, `${number(other.in_both)} images have a result in both runs` +
      (other.compared < other.in_both ? `; ${number(other.compared)} of them, drawn by a hash, were compared box by box` : "") +
      (other.compared ? `. In ${percent(other.alike, other.compared)} of the compared images all boxes are the same` : "") +
      (all ? `, and ${percent(agreed, all)} of all boxes are in both runs: same class and IoU 0.5 or more, from the operating points of each run on` : "") + "." +
      (other.changed ? ` ${plural(other.changed, "image was", "images were")} replaced between the runs.` : "") +
      (other.left_out_classes.length ? ` Not compared, because one detector lacks them: ${other.left_out_classes.join(", ")}.` : "")),
    element("div", { className: "buttons" },
      element("button", { type: "button", onclick: () => goTo({ show: "ours" }) }, "Pictures with boxes of this run only"),
      element("button", { type: "button", onclick: () => goTo({ show: "theirs" }) }, "Pictures with boxes of the other run only")),
    element("div", { className: "two" },
      element("div", { className: "scroll" }, table(["", "This run", "Other run"], rows)),
      element("div", { className: "scroll" }, table(["Class", "Both", "Only this", "Only other", "Other class"],
        other.classes.map(([name, ...counts]) => [element("bdi", {}, name), ...counts.map(number)])))));
}
