// The sections at the top: summary, images, classes, throughput, failures.

// --- summary ----------------------------------------------------------------------------------

const statuses = new Map(data.statuses);
const withResult = statuses.get("ok") || 0;
const perClass = data.class_shown;
const lowest = Math.min(...data.points), highest = Math.max(...data.points);
const pointText = lowest === highest ? round(lowest, 2) : `${round(lowest, 2)} to ${round(highest, 2)}`;
const startText = data.has_points ? `the operating points (score ${pointText})` : `score ${pointText}`;

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
  facts.push(["Boxes counted", `from ${startText} on: ${number(data.shown)} of ${number(data.boxes)}` +
    (data.has_points ? "" : ". The checkpoint has no operating points")]);
  $("facts").append(...facts.map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, element("bdi", {}, value)))));
  const tiles = [
    [percent(withResult, data.images), `have a result: ${number(withResult)} of ${plural(data.images, "image")}`],
    [percent(data.images_with_boxes, withResult), `of the images with a result have a box: ${number(data.images_with_boxes)}`],
    [withResult ? round(data.shown / withResult, 1) : "–", "boxes per image, on average"],
    [number(data.images - withResult), "images have no result; see Failures for the causes"],
  ];
  if (rate)
    tiles.push([rate < 10 ? round(rate, 1) : number(Math.round(rate)), "images per second while the job worked"]);
  if (data.evaluation) {
    const { voc07, split, true: right, false: wrong, missed } = data.evaluation;
    const labelled = `on ${lastPart(split)}`;
    tiles.push([percent(right, right + wrong), `precision ${labelled}: ${number(right)} of ${plural(right + wrong, "box", "boxes")} are right`],
      [percent(right, right + missed), `recall ${labelled}: ${number(right)} of ${plural(right + missed, "object")} found`],
      [mean(voc07), `mAP (VOC07) ${labelled}`]);
  }
  $("kpis").classList.toggle("many", tiles.length > 6);
  $("kpis").append(...tiles.map(([value, text]) =>
    element("div", { className: "kpi" }, element("b", {}, value), element("span", {}, text))));
  $("contents").append(...[...document.querySelectorAll("main section.card:not([hidden])")].map((section) =>
    element("li", {}, element("a", { href: `#${section.id}` }, section.querySelector("h2").textContent))));
  $("colophon").textContent = `Boxes are in pixels of the upright image. Boxes are counted and drawn ` +
    `from ${startText} on; the slider shows the others. Model ${data.model_id}, run ${data.run_id}. This page loads nothing from the network.`;
}

const lastPart = (uri) => basename(uri).replace(/\.txt$/, "");
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
    lede: withResult ? `${percent(counts[0], withResult)} of the images with a result have no box from ${startText} on.`
      : "No image has a result.",
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
  const row = (k) => {
    const bins = coarse(data.scores[k], 20);
    const high = Math.max(...bins, 1);
    const median = quantile(data.scores[k], 0.5);
    return element("tr", { id: `class-${k}` },
      element("td", {}, element("button", { type: "button", className: "class",
        onclick: () => goTo({ k }),
      }, key(k), element("bdi", {}, data.classes[k]))),
      element("td", { className: "wide" }, element("div", { className: "meter" }, element("i"))),
      element("td", { className: "num boxes" }, number(perClass[k])),
      element("td", { className: "num images" }, number(data.class_images[k])),
      element("td", { className: "num optional" }, round(data.points[k], 2)),
      element("td", { className: "num optional" }, median === null ? "–" : round(median, 2)),
      element("td", { className: "optional" }, element("div", { className: "spark", ariaHidden: "true" },
        ...bins.map((count) => element("i", { style: { height: `${(100 * count) / high}%` } })))));
  };
  const titles = [["Class", ""], ["", "wide"], ["Boxes", "num"], ["Images", "num"], ["From score", "num optional"],
    ["Median score", "num optional"], ["Scores 0 to 1", "optional"]];
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
    lede: `Images scored in each ${spell(step_s).replace(/^1 /, "")}` +
      (rate ? `; ${rate < 10 ? round(rate, 1) : number(Math.round(rate))} per second while the job worked.` : "."),
    says: (i) => [at(i).slice(0, 19).replace("T", " "), `${plural(ok[i], "image")} with a result, ` +
      `${number(failed[i])} without; ${round((ok[i] + failed[i]) / step_s, 1)} per second`],
    axis: `UTC, from ${at(0).slice(0, 10)}`,
    ticks: places.map((share, i) => ({ at: share, text: label(Math.round(share * ok.length)), optional: i % 2 === 1 }))
      .filter((tick, i, all) => all.findIndex(({ text }) => text === tick.text) === i), // a short run has few times
  });
  if (sum(failed)) $("time-chart").append(element("ul", { className: "legend" },
    element("li", {}, element("i", { className: "swatch", style: { background: "var(--accent)" } }), "with a result"),
    element("li", {}, element("i", { className: "second" }), "without a result")));
}

function cause(one) {
  return element("li", {},
    element("span", { className: "cause" }, element("bdi", {}, one.cause)),
    element("span", { className: "count" }, number(one.images)),
    element("details", {}, element("summary", {}, one.images > one.examples.length
      ? `${one.examples.length} of them` : plural(one.examples.length, "image")),
    ...one.examples.map(uri)));
}

// Lists the causes below a heading for each status, the most frequent status first.
function causes(host, groups) {
  for (const [status, count] of data.statuses) {
    const ours = groups.causes.filter((one) => one.status === status);
    if (!ours.length) continue;
    const about = status === "ok" ? [] : [`: ${plural(count, "image")}, ${percent(count, data.images)}`,
      element("span", { className: "meaning" }, MEANINGS[status] || "")];
    host.append(element("section", { className: "kind" },
      ...(about.length ? [element("h3", {}, element("span", { className: "status" }, status), ...about)] : []),
      element("ul", { className: "causes" }, ...ours.map(cause))));
  }
  if (groups.more_causes) host.append(element("p", { className: "lede" },
    `Column error has ${plural(groups.more_causes, "more cause")}, for ${plural(groups.more_images, "image")}.`));
}

function failures() {
  if (data.failures.causes.length) causes($("failure-list"), data.failures);
  else $("failure-list").append(element("p", { className: "lede" }, "None: every image has a result."));
  if (!data.notes.causes.length) return;
  $("failure-list").append(element("h3", { className: "later" }, "Notes on images with a result"));
  causes($("failure-list"), data.notes);
}
