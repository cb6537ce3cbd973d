// The pictures, with their boxes, the labelled objects, and the boxes of another run.

const LEGEND = 14;
const FIRST = 24; // pictures that are drawn at once; a button draws the others
let shown = [];

// --- what a picture shows -----------------------------------------------------------------------

// Gives the objects of a picture that no box from the chosen score on has.
function missedIn(item) {
  const found = new Set(item.boxes.filter((box) => box[6] === TRUE && isAbove(box)).map((box) => box[7]));
  return (item.truth || []).filter((object, j) => !found.has(j) && (filter.k === ALL || filter.k === object[0]));
}

const rowOf = (item, box) => (box[6] === TRUE ? box[0] : box[6] === WRONG ? item.truth[box[7]][0] : BACKGROUND);

// Gives the parts of a picture that fit "show" or the chosen number of the confusion, to be drawn strongly.
function chosenIn(item, boxes, missed) {
  const strong = new Set();
  const add = (parts) => parts.forEach((part) => strong.add(part));
  if (filter.cell) {
    const [a, b] = filter.cell;
    if (b !== BACKGROUND) add(boxes.filter((box) => box[6] !== null && box[0] === b && rowOf(item, box) === a));
    else {
      const taken = new Set(item.boxes.filter((box) => box[6] === WRONG && isAbove(box)).map((box) => box[7]));
      add(missed.filter((object) => object[0] === a && !taken.has(item.truth.indexOf(object))));
    }
    return strong;
  }
  if (filter.show === "true") add(boxes.filter((box) => box[6] === TRUE));
  if (filter.show === "false") add(boxes.filter((box) => box[6] === FALSE || box[6] === SECOND));
  if (filter.show === "wrong") boxes.filter((box) => box[6] === WRONG).forEach((box) => add([box, item.truth[box[7]]]));
  if (filter.show === "missed") add(missed);
  if (filter.show === "ours") add(boxes.filter((box) => box[8] === false));
  if (filter.show === "theirs") add(othersIn(item));
  return strong;
}

// Boxes that only the other run has. They are drawn only where they are asked for.
const othersIn = (item) => (item.other || []).filter((box) => !box[6] && (filter.k === ALL || box[0] === data.classes[filter.k]));
const comparing = () => filter.show === "ours" || filter.show === "theirs";
const isEmpty = (item) => !item.boxes.some(isAbove);

function select() {
  const whole = filter.k === ALL && filter.min <= 0 && filter.max === 100;
  const picked = filter.cell || !["all", "empty"].includes(filter.show);
  const found = data.gallery.items.map((item) => {
    const boxes = item.boxes.filter(fits), missed = missedIn(item);
    return { item, boxes, missed, others: othersIn(item), strong: picked ? chosenIn(item, boxes, missed) : null };
  }).filter(({ item, boxes, missed, strong }) => strong ? strong.size
    : filter.show === "empty" ? isEmpty(item) && (filter.k === ALL || missed.length || !item.truth) : whole || boxes.length);
  const top = (one) => Math.max(-1, ...one.boxes.map((box) => box[1]));
  const low = (one) => Math.min(2, ...one.boxes.map((box) => box[1]));
  const by = { score: (a, b) => top(b) - top(a), low: (a, b) => low(a) - low(b), count: (a, b) => b.boxes.length - a.boxes.length,
    name: (a, b) => byName(a.item.uri, b.item.uri) }[filter.sort];
  return by ? found.sort(by) : found;
}

// --- drawing ------------------------------------------------------------------------------------

const VERDICTS = { [TRUE]: "true", [FALSE]: "false", [WRONG]: "wrong class", [SECOND]: "false: second box" };
const mark = (box) => (box[6] === null ? "" : box[6] === TRUE ? "✓ " : "✗ ");

function outline(svg, [x1, y1, x2, y2], attributes, faint) {
  const place = { x: x1, y: y1, width: Math.max(x2 - x1, 0), height: Math.max(y2 - y1, 0), fill: "none",
    "vector-effect": "non-scaling-stroke", ...(faint ? { opacity: 0.3 } : {}) };
  svg.append(vector("rect", { ...place, class: attributes.class === "truth" ? "under thin" : "under" }), vector("rect", { ...place, ...attributes }));
}

function overlay({ item, boxes, missed, others, strong }, region = [0, 0, item.width, item.height]) {
  const [x1, y1, x2, y2] = region;
  const svg = vector("svg", { viewBox: `${x1} ${y1} ${x2 - x1} ${y2 - y1}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const faint = (part) => Boolean(strong) && !strong.has(part);
  for (const object of item.truth || [])
    outline(svg, object.slice(1), { class: missed.includes(object) ? "missed" : "truth" }, faint(object));
  for (const box of comparing() ? others : []) outline(svg, box.slice(2, 6), { class: "other" }, faint(box));
  for (const box of [...boxes].reverse())
    outline(svg, box.slice(2, 6), { class: "over", stroke: colour(box[0]), "stroke-dasharray": dashes(box[0]) }, faint(box));
  return svg;
}

// Puts words at the upper left corner of a box; at a right one if the box is near the right edge of the image. Words about
// a missed object are below it, because a box of another class may have the same corners.
function tag(item, [x1, y1, x2, y2], words, style, below) {
  const x = x1 > 0.6 * item.width ? { right: `${Math.max(0, 100 - (100 * x2) / item.width)}%` } : { left: `${(100 * x1) / item.width}%` };
  const [over, under] = [100 - (100 * y1) / item.height, (100 * y2) / item.height];
  const y = below ? (under < 93 ? { top: `${under}%` } : { bottom: "0%" })
    : over < 93 ? { bottom: `${over}%` } : { top: `${100 - over}%` };
  return element("span", { className: "tag", style: { ...x, ...y, ...style } }, words);
}

function tags({ item, boxes, missed, others, strong }) {
  const kept = (part) => !strong || strong.has(part);
  return [
    ...boxes.filter(kept).map((box) => tag(item, box.slice(2), `${mark(box)}${data.classes[box[0]]} ${round(box[1], 2)}`,
      { background: colour(box[0]), color: ink(box[0]) })),
    ...missed.filter(kept).map(([k, ...corners]) => tag(item, corners, `missed: ${data.classes[k]}`, { background: "#fff", color: "#000" }, true)),
    ...(filter.show === "theirs" ? others.map((box) => tag(item, box.slice(2), `other run: ${box[0]} ${round(box[1], 2)}`,
      { background: "#000", color: "#fff" })) : []),
  ];
}

function frame(picture, most) {
  const { item, boxes, missed, strong } = picture;
  const image = element("img", { src: item.src, alt: "", decoding: "async" });
  const count = strong ? strong.size : boxes.length + missed.length;
  return element("span", { className: "frame", style: { aspectRatio: `${item.width} / ${item.height}` } },
    image, overlay(picture), ...(count <= most ? tags(picture) : []));
}

function counted({ item, boxes, missed, others }) {
  const numbers = new Map();
  for (const [k] of boxes) numbers.set(k, (numbers.get(k) || 0) + 1);
  const parts = [...numbers].map(([k, count]) => (count > 1 ? `${count} ${data.classes[k]}` : data.classes[k]));
  if (missed.length) parts.push(`${missed.length} missed`);
  if (others.length && comparing()) parts.push(`${others.length} in the other run only`);
  const lower = filter.min !== POINTS && item.hidden && item.boxes.at(-1)?.[1] > filter.min / 100;
  return (parts.join(", ") || "no box") + (lower ? `, and up to ${plural(item.hidden, "box", "boxes")} of lower score, not in this page` : "");
}

function pictures() {
  const { items, unseen, left_out } = data.gallery;
  shown = select();
  $("gallery-text").textContent = !items.length ? "No pictures were requested, or none could be read."
    : `${number(shown.length)} of ${plural(items.length, "picture")}, with all boxes ${scoreText()}. The page has pictures ` +
      `with boxes of high and low score, of each class in turn${data.evaluation ? ", and with mistakes" : ""}. ` +
      "Enter opens a picture; the arrow keys then show the next one." +
      (left_out ? ` ${plural(left_out, "picture")} did not fit into the page.` : "");
  $("tiles").replaceChildren(...shown.slice(0, FIRST).map(tile));
  $("more").hidden = shown.length <= FIRST;
  $("more").textContent = `Show the other ${plural(shown.length - FIRST, "picture")}`;
  legend();
  $("unseen").replaceChildren();
  if (unseen.length) $("unseen").append(element("details", {}, element("summary", {},
    `${plural(unseen.length, "picture")} could not be read`), ...unseen.map(([name, cause]) =>
    element("p", {}, uri(name), element("bdi", {}, cause)))));
}

function tile(picture, i) {
  const { item } = picture;
  const image = frame(picture, 4);
  Object.assign(image.style, item.width * 3 >= item.height * 4 ? { width: "100%" } : { height: "100%" });
  const words = counted(picture);
  return element("li", {}, element("button", { type: "button", className: "tile", onclick: () => view(i),
    ariaLabel: `${basename(item.uri)}: ${words}` },
  element("span", { className: "holder" }, image),
  element("span", { className: "caption" }, element("b", { title: item.uri }, basename(item.uri)),
    element("span", {}, words))));
}

function showMore() {
  const first = $("tiles").children.length;
  $("tiles").append(...shown.slice(first).map((picture, i) => tile(picture, first + i)));
  $("more").hidden = true;
  $("tiles").children[first].querySelector("button").focus();
}

function legend() {
  const present = new Map();
  for (const { boxes } of shown) for (const [k] of boxes) present.set(k, (present.get(k) || 0) + 1);
  const most = [...present].sort((a, b) => b[1] - a[1]).slice(0, LEGEND).map(([k]) => k);
  const line = (name, words) => element("li", {}, vector("svg", { width: 26, height: 10, "aria-hidden": "true", class: "key" },
    vector("line", { x1: 0, x2: 26, y1: 5, y2: 5, class: "under" }), vector("line", { x1: 0, x2: 26, y1: 5, y2: 5, class: name })), words);
  $("legend").replaceChildren(...most.map((k) => element("li", {}, key(k), element("bdi", {}, data.classes[k]))),
    ...(present.size > LEGEND ? [element("li", {}, `and ${number(present.size - LEGEND)} more`)] : []),
    ...(data.evaluation ? [line("truth", "labelled object"), line("missed", "missed object"),
      element("li", {}, "✓ true, ✗ false or wrong class")] : []),
    ...(comparing() ? [line("other", "only in the other run")] : []));
}
