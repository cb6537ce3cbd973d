// The view of one picture: its boxes, crops at original size, its address. The last lines draw the whole page.

let viewed = 0;

function view(i) {
  viewed = (i + shown.length) % shown.length;
  const picture = shown[viewed], { item, boxes, missed } = picture;
  $("viewer-title").textContent = basename(item.uri);
  const image = frame(picture, 40);
  image.style.maxWidth = `calc(72vh * ${item.width / item.height})`;
  image.querySelector("img").alt = counted(picture);
  $("viewer-picture").replaceChildren(image);
  const pick = (k, corners, words) => element("button", { type: "button", className: "class", title: "Show at original size",
    onclick: () => zoom(picture, corners, 1) }, key(k), element("bdi", {}, words || data.classes[k]));
  const size = ([x1, y1, x2, y2]) => `${Math.round(x2 - x1)} × ${Math.round(y2 - y1)}`;
  const verdict = (box) => box[6] === null ? "not judged"
    : box[6] === WRONG ? `is ${data.classes[item.truth[box[7]][0]]}` : VERDICTS[box[6]];
  const rows = [
    ...boxes.map((box) => [pick(box[0], box.slice(2, 6)), round(box[1], 3), size(box.slice(2, 6)),
      ...(item.truth ? [verdict(box)] : []), ...(item.other && box[8] !== null ? [box[8] ? "both" : "this"] : item.other ? ["–"] : [])]),
    ...missed.map(([k, ...corners]) => [pick(k, corners), "–", size(corners), "missed", ...(item.other ? ["–"] : [])]),
  ];
  const head = ["Class", "Score", "Pixels", ...(item.truth ? ["Label"] : []), ...(item.other ? ["Run"] : [])];
  $("viewer-facts").replaceChildren(...address(item),
    element("p", { className: "lede" }, `${item.width} × ${item.height} pixels, picture ${viewed + 1} of ${shown.length}. ` +
      "Choose a box to see it at original size."),
    element("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Boxes" }, rows.length ? table(head, rows) : "No box."));
  $("viewer-crop").replaceChildren();
  if (!$("viewer").open) $("viewer").showModal();
}

// Gives the address of an image with a button that copies it, and a link where a browser can open it.
function address(item) {
  const local = item.uri.startsWith("/") ? item.uri : item.uri.startsWith("file:///") ? item.uri.slice("file://".length) : null;
  const target = /^https?:\/\//i.test(item.uri) ? item.uri
    : local ? "file://" + local.split("/").map(encodeURIComponent).join("/") : null;
  const button = element("button", { type: "button", onclick: () => copy(item.uri, button) }, "Copy");
  return [uri(item.uri), element("p", { className: "buttons" }, button, target && element("a",
    { href: target, target: "_blank", rel: "noreferrer noopener", className: "open" }, "Open the image"))];
}

// Shows a part of a picture, `times` screen pixels for each pixel of the image.
function zoom(picture, [x1, y1, x2, y2], times) {
  const { item } = picture;
  const small = Math.max(item.width, item.height) <= data.gallery.side;
  const crop = item.crops.find(([a, b, c, d]) => a <= x1 && b <= y1 && x2 <= c && y2 <= d);
  const edge = Math.max(12, 0.25 * Math.max(x2 - x1, y2 - y1));
  const region = crop ? crop.slice(0, 4) : [Math.max(0, x1 - edge), Math.max(0, y1 - edge),
    Math.min(item.width, x2 + edge), Math.min(item.height, y2 + edge)].map(Math.round);
  const [width, height] = [times * (region[2] - region[0]), times * (region[3] - region[1])];
  const image = crop ? element("img", { src: crop[4], alt: "", style: { width: "100%", height: "100%" } })
    : element("img", { src: item.src, alt: "", style: { position: "absolute", left: `${-times * region[0]}px`,
      top: `${-times * region[1]}px`, width: `${times * item.width}px`, height: `${times * item.height}px`, maxWidth: "none" } });
  const reduced = crop && Math.max(region[2] - region[0], region[3] - region[1]) > data.gallery.crop_side;
  const words = crop ? (reduced ? "A large crop: reduced in this page." : "Pixels of the image.")
    : small ? "Pixels of the image." : "Enlarged from the small picture: the page has crops of other boxes (flag --crops).";
  $("viewer-crop").replaceChildren(
    element("p", { className: "buttons" }, ...[1, 2, 4].map((n) => element("button", { type: "button", ariaPressed: String(n === times),
      onclick: () => zoom(picture, [x1, y1, x2, y2], n) }, `${n}×`)), element("span", { className: "lede" }, words)),
    element("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Crop" },
      element("span", { className: "frame crop", style: { width: `${width}px`, height: `${height}px` } }, image, overlay(picture, region))));
  $("viewer-crop").scrollIntoView({ block: "nearest" });
}

function options(id, pairs, change) {
  $(id).append(...pairs.map(([value, name]) => element("option", { value }, name)));
  $(id).addEventListener("change", (event) => change(event.target.value));
}

function wire() {
  options("filter-class", [[String(ALL), "all"], ...data.classes.map((name, k) => [String(k), name])], (value) => setFilter({ k: Number(value) }));
  options("filter-show", SHOWS, (value) => setFilter({ show: value, cell: null }));
  options("filter-sort", SORTS, (value) => setFilter({ sort: value }));
  $("filter-min").addEventListener("input", (event) =>
    setFilter({ min: +event.target.value, max: Math.max(filter.max, +event.target.value) }));
  $("filter-max").addEventListener("input", (event) =>
    setFilter({ max: +event.target.value, min: Math.min(filter.min, +event.target.value) }));
  $("filter").addEventListener("reset", (event) => { event.preventDefault(); setFilter(START); });
  $("filter").addEventListener("submit", (event) => event.preventDefault());
  $("more").addEventListener("click", showMore);
  $("query-copy").addEventListener("click", (event) => copy(query(), event.target));
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
comparison();
head();
images();
classes();
time();
failures();
wire();
fromAddress();
show();
document.documentElement.dataset.ready = "yes";
