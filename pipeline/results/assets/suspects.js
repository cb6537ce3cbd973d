(() => {
"use strict";
const items = [...document.querySelectorAll("li[data-suspect]")];
const judged = new Map();
const text = document.getElementById("judged");
const kind = document.getElementById("kind");

function show() {
  const wrong = [...judged.values()].filter(Boolean).length;
  text.textContent = `${judged.size} of ${items.length} judged, ${wrong} labels wrong`;
}

function judge(item, wrong) {
  const id = item.dataset.suspect;
  if (judged.get(id) === wrong) judged.delete(id); else judged.set(id, wrong);
  for (const button of item.querySelectorAll("button")) {
    const value = button.dataset.wrong === "true";
    button.setAttribute("aria-pressed", String(judged.has(id) && judged.get(id) === value));
  }
  show();
}

for (const item of items) {
  for (const button of item.querySelectorAll("button")) {
    button.addEventListener("click", () => judge(item, button.dataset.wrong === "true"));
  }
  item.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "w" || event.key === "r") {
      judge(item, event.key === "w");
      const open = items.filter((one) => !one.hidden);
      const next = open[open.indexOf(item) + 1];
      if (next) next.querySelector("button").focus();
    }
  });
}

kind.addEventListener("change", () => {
  for (const item of items) item.hidden = kind.value !== "" && item.dataset.kind !== kind.value;
});

document.getElementById("save").addEventListener("click", () => {
  const data = { format_version: 1, judged: Object.fromEntries(judged) };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(data, null, 1)], { type: "application/json" }));
  link.download = "judged.json";
  link.click();
  URL.revokeObjectURL(link.href);
});
show();
})();
