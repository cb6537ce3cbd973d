// The sections that the filter does not change: summary, images, classes, throughput, failures, accuracy.

// --- summary ----------------------------------------------------------------------------------

const statuses = new Map(data.statuses);
const withResult = statuses.get("ok") || 0;
const perClass = data.scores.map(sum);

const rate = (() => {
  if (!data.throughput) return null;
  const { ok, failed, step_s } = data.throughput;
  const busy = ok.map((value, i) => value + failed[i]).filter((value) => value);
  return sum(busy) / (busy.length * step_s);
})();

function head() {
  $("run").textContent = data.run_id;
  const facts = [["Results", data.scored], ["Model", data.model_id], ["Made", data.made_at]];
  if (data.throughput) facts.push(["First scored", data.throughput.start.slice(0, 16).replace("T", " ") + " UTC"]);
  if (data.older_rows)
    facts.push(["Not counted", `${plural(data.older_rows, "older row")} of images that were scored again`]);
  $("facts").append(...facts.map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, element("bdi", {}, value)))));
  const tiles = [
    [percent(withResult, data.images), `have a result: ${number(withResult)} of ${plural(data.images, "image")}`],
    [percent(data.images_with_boxes, withResult), `of these have a box: ${number(data.images_with_boxes)}`],
    [withResult ? round(data.boxes / withResult, 1) : "–", "boxes per image, on average"],
    [number(data.images - withResult), "images have no result; see Failures for the causes"],
  ];
  if (rate)
    tiles.push([rate < 10 ? round(rate, 1) : number(Math.round(rate)), "images per second while the job worked"]);
  if (data.evaluation)
    tiles.push([mean(data.evaluation.voc07), `mAP (VOC07) on ${data.evaluation.split}`]);
  $("kpis").append(...tiles.map(([value, text]) =>
    element("div", { className: "kpi" }, element("b", {}, value), element("span", {}, text))));
  $("contents").append(...[...document.querySelectorAll("main section.card:not([hidden])")].map((section) =>
    element("li", {}, element("a", { href: `#${section.id}` }, section.querySelector("h2").textContent))));
  $("colophon").textContent = `Boxes are in pixels of the upright image. A score is the output of the model, not a ` +
    `probability. Model ${data.model_id}, run ${data.run_id}. This page loads nothing from the network.`;
}

const mean = (value) => (value === null ? "–" : round(value, 3));

// --- images -----------------------------------------------------------------------------------

const MEANINGS = {
  ok: "has a result", missing: "does not exist any more", changed: "was replaced during the run",
  denied: "access was denied", unreadable: "storage could not read it", too_large: "is above the size limits",
  undecodable: "is damaged or not an image", failed: "the detector failed on it",
};
const SHADES = { ok: "#009e73", missing: "#e69f00", changed: "#56b4e9", denied: "#cc79a7",
  unreadable: "#d55e00", too_large: "#0072b2", undecodable: "#f0e442", failed: "#4d4d4d" };

function images() {
  const shade = (status) => SHADES[status] || "#999";
  const rows = data.statuses.map(([status, count]) => element("tr", {},
    element("th", { scope: "row", style: { color: "inherit" } },
      element("i", { className: "swatch", style: { background: shade(status) } }), status),
    element("td", { className: "optional" }, MEANINGS[status] || ""),
    element("td", { className: "num" }, number(count)),
    element("td", { className: "num" }, percent(count, data.images))));
  $("statuses").append(
    element("div", { className: "stack", ariaHidden: "true" }, ...data.statuses.map(([status, count]) =>
      element("i", { title: `${status}: ${number(count)}`,
        style: { flex: `${count} 1 0`, background: shade(status) } }))),
    element("table", {}, element("tbody", {}, ...rows)));
  const { names, counts } = data.per_image;
  barChart($("per-image-chart"), {
    values: counts, axis: "boxes in an image", height: 150, head: ["Boxes", "Images"],
    lede: `${percent(counts[0], withResult)} of the images with a result have no box.`,
    says: (i) => [`${names[i]} ${names[i] === "1" ? "box" : "boxes"}`, 
      `${plural(counts[i], "image")}, ${percent(counts[i], withResult)}`],
    ticks: names.map((text, i) => ({ at: Math.min(Math.max((i + 0.5) / names.length, 0.021), 0.979), text,
      optional: i > 5 && i % 2 === 1 })),
  });
}

// --- classes ----------------------------------------------------------------------------------

const quantile = (counts, share) => {
  let left = share * sum(counts);
  for (let i = 0; i < counts.length; i++) {
    if (counts[i] && left <= counts[i]) return (i + left / counts[i]) / counts.length;
    left -= counts[i];
  }
  return null;
};

const coarse = (counts, groups) => Array.from({ length: groups }, (_, g) =>
  sum(counts.slice((g * counts.length) / groups, ((g + 1) * counts.length) / groups)));

function classes() {
  const order = data.classes.map((_, k) => k).sort((a, b) => perClass[b] - perClass[a] || a - b);
  const most = Math.max(...perClass, 1);
  const row = (k) => {
    const bins = coarse(data.scores[k], 20);
    const high = Math.max(...bins, 1);
    const median = quantile(data.scores[k], 0.5);
    return element("tr", { id: `class-${k}` },
      element("td", {}, element("button", { type: "button", className: "class",
        onclick: () => { setFilter({ k }); $("closer").scrollIntoView(); $("closer").focus({ preventScroll: true }); },
      }, key(k), element("bdi", {}, data.classes[k]))),
      element("td", { className: "wide" }, element("div", { className: "meter" },
        element("i", { style: { width: `${(100 * perClass[k]) / most}%`,
          visibility: perClass[k] ? "visible" : "hidden" } }))),
      element("td", { className: "num" }, number(perClass[k])),
      element("td", { className: "num" }, number(data.class_images[k])),
      element("td", { className: "num optional" }, median === null ? "–" : round(median, 2)),
      element("td", { className: "optional" }, element("div", { className: "spark", ariaHidden: "true" },
        ...bins.map((count) => element("i", { style: { height: `${(100 * count) / high}%` } })))));
  };
  const titles = [["Class", ""], ["", "wide"], ["Boxes", "num"], ["Images", "num"], ["Median score", "num optional"],
    ["Scores 0 to 1", "optional"]];
  $("class-table").append(
    element("thead", {}, element("tr", {}, ...titles.map(([text, className]) => element("th", { className }, text)))),
    element("tbody", {}, ...order.map(row)));
}

// --- time and failures ------------------------------------------------------------------------

const spell = (seconds) => seconds % 86400 === 0 ? plural(seconds / 86400, "day")
  : seconds % 3600 === 0 ? plural(seconds / 3600, "hour")
    : seconds % 60 === 0 ? plural(seconds / 60, "minute") : plural(seconds, "second");

function time() {
  if (!data.throughput) {
    $("time-chart").append(element("p", { className: "lede" }, "No row has a time."));
    return;
  }
  const { start, step_s, ok, failed } = data.throughput;
  const at = (i) => new Date(Date.parse(start) + 1000 * step_s * i).toISOString();
  const label = (i) => step_s >= 86400 ? at(i).slice(5, 10) : at(i).slice(11, step_s < 60 ? 19 : 16);
  const places = [0, 0.25, 0.5, 0.75, 1];
  barChart($("time-chart"), {
    values: ok, second: failed, head: ["From (UTC)", "Images"],
    lede: `Images scored in each ${spell(step_s)}` +
      (rate ? `; ${rate < 10 ? round(rate, 1) : number(Math.round(rate))} per second while the job worked.` : "."),
    says: (i) => [at(i).slice(0, 19).replace("T", " "), `${plural(ok[i], "image")} with a result, ` +
      `${number(failed[i])} without; ${round((ok[i] + failed[i]) / step_s, 1)} per second`],
    axis: `UTC, from ${at(0).slice(0, 10)}`,
    ticks: places.map((share, i) =>
      ({ at: share, text: label(Math.round(share * ok.length)), optional: i % 2 === 1 })),
  });
  if (sum(failed)) $("time-chart").append(element("ul", { className: "legend" },
    element("li", {}, element("i", { className: "swatch", style: { background: "var(--accent)" } }), "with a result"),
    element("li", {}, element("i", { className: "second" }), "without a result")));
}

function causes(host, groups, none) {
  if (!groups.causes.length) { host.append(element("p", { className: "lede" }, none)); return; }
  host.append(element("ul", { className: "causes" }, ...groups.causes.map((cause) => element("li", {},
    element("span", { className: "status" }, cause.status),
    element("span", { className: "cause" }, element("bdi", {}, cause.cause)),
    element("span", { className: "count" }, number(cause.images)),
    element("details", {}, element("summary", {}, cause.images > cause.examples.length
      ? `${cause.examples.length} of them` : plural(cause.examples.length, "image")),
      ...cause.examples.map(uri))))));
  if (groups.more_causes) host.append(element("p", { className: "lede" },
    `Column error has ${plural(groups.more_causes, "more cause")}, for ${plural(groups.more_images, "image")}.`));
}

function failures() {
  causes($("failure-list"), data.failures, "None: every image has a result.");
  if (data.notes.causes.length) {
    const notes = element("div", {});
    $("failure-list").append(
      element("h3", { style: { marginTop: "18px" } }, "Notes on images with a result"), notes);
    causes(notes, data.notes, "");
  }
}

// --- accuracy ---------------------------------------------------------------------------------

function accuracy() {
  const result = data.evaluation;
  if (!result) return;
  $("accuracy").hidden = false;
  const list = result.classes.filter((row) => row.objects).sort((a, b) => b.voc07 - a.voc07);
  const svg = vector("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img",
    "aria-label": "Precision against recall, one line per class. The table has the areas under the lines." });
  const draw = (chosen) => svg.replaceChildren(...list.map((row) => {
    const k = data.classes.indexOf(row.name);
    const points = row.curve.map((p, i) => `${i},${100 - 100 * p}`).join(" ");
    const strong = chosen === null ? list.length < 9 : chosen === row;
    return vector("polyline", { points, fill: "none", stroke: colour(k), "stroke-dasharray": dashes(k),
      "stroke-width": strong ? 2.6 : 1.4, opacity: strong ? 1 : 0.3, "vector-effect": "non-scaling-stroke" });
  }));
  draw(null);
  const lines = [0.25, 0.5, 0.75, 1].map((at) => element("div",
    { className: "line", style: { top: `${100 - 100 * at}%` } }, element("span", {}, String(at))));
  const body = list.map((row) => {
    const k = data.classes.indexOf(row.name);
    const name = element("button", { type: "button", className: "class" }, key(k), element("bdi", {}, row.name));
    const made = element("tr", {}, element("td", {}, name), ...[number(row.objects), mean(row.voc07), mean(row.voc10),
      mean(row.coco)].map((text) => element("td", { className: "num" }, text)));
    for (const [target, enter, leave] of [[made, "pointerenter", "pointerleave"], [name, "focus", "blur"]]) {
      target.addEventListener(enter, () => draw(row));
      target.addEventListener(leave, () => draw(null));
    }
    return made;
  });
  const all = [number(sum(list.map((row) => row.objects))), mean(result.voc07), mean(result.voc10), mean(result.coco)];
  const means = element("tr", {}, element("th", { scope: "row" }, "mean"),
    ...all.map((text) => element("td", { className: "num" }, text)));
  $("accuracy-body").append(
    element("p", { className: "lede" },
      `${plural(result.images, "labelled image")} of split ${result.split}. IoU 0.5; for COCO 0.5 to 0.95.`),
    element("div", { className: "two" },
      element("div", {}, element("div", { className: "pr" }, ...lines, svg),
        element("div", { className: "ticks", ariaHidden: "true" }, ...[0, 0.5, 1].map((at) => element("span",
          { style: { left: `${100 * at}%` }, className: at ? at === 1 ? "last" : "" : "first" }, String(at)))),
        element("p", { className: "axis" }, "horizontal: recall; vertical: precision")),
      element("div", { className: "scroll" }, element("table", {},
        element("thead", {}, element("tr", {}, ...["Class", "Objects", "VOC07", "VOC10", "COCO"].map((text, i) =>
          element("th", { className: i ? "num" : "" }, text)))),
        element("tbody", {}, ...body, means)))));
}
