"use strict";
// Sorting: each header becomes a button; numbers by data-v or by their text, blanks last.
function valueOf(row, column) {
  const cell = row.cells[column];
  if (!cell) return "";
  return cell.dataset.v !== undefined ? cell.dataset.v : cell.textContent.trim();
}
function compare(a, b) {
  if (a === b) return 0;
  const x = Number.parseFloat(a), y = Number.parseFloat(b);
  if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
  return a.localeCompare(b);
}
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row, column), row]);
      rows.sort(([a], [b]) => (a === "" || b === "" ? (a === "") - (b === "") : up ? compare(a, b) : compare(b, a)));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
  if (table.classList.contains("verdicts")) {
    const names = heads.map((head) => head.textContent);
    for (const row of table.tBodies[0].rows) {
      [...row.cells].forEach((cell, column) => { cell.dataset.label = names[column]; });
    }
  }
}
// Filter: words (all must occur) and verdicts.
const rows = [...document.querySelectorAll("tr.row")].map((row) => [row, row.textContent.toLowerCase()]);
const find = document.getElementById("find");
const picks = [...document.querySelectorAll("input.pick")];
const count = document.getElementById("count");
function filter() {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = new Set(picks.filter((pick) => pick.checked).map((pick) => pick.value));
  let shown = 0;
  for (const [row, text] of rows) {
    row.hidden = !chosen.has(row.dataset.verdict) || !words.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  count.textContent = `${shown} of ${rows.length} rows`;
}
find.addEventListener("input", filter);
picks.forEach((pick) => pick.addEventListener("change", filter));
filter();
// A link into a closed part opens it; print shows everything.
function reveal() {
  const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  if (!target) return;
  for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", reveal);
document.addEventListener("click", (event) => { if (event.target.closest('a[href^="#"]')) setTimeout(reveal); });
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
reveal();
