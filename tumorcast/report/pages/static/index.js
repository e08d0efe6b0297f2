"use strict";
// The index: its columns sort, and the search leaves the rows that hold every word.
(() => {
  const table = document.getElementById("patients");
  const body = table.tBodies[0];
  const heads = [...table.querySelectorAll("th[aria-sort]")];
  const rows = [...body.rows];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase().replace(/\s+/g, " ")]));
  const names = new Intl.Collator("en", { numeric: true });

  const keyOf = (row, column) => row.cells[column]?.dataset.key ?? "nan";

  const compare = (column, descending) => (one, other) => {
    const [a, b] = [keyOf(one, column), keyOf(other, column)];
    if (a === "nan" || b === "nan") return (a === "nan") - (b === "nan"); // what has no value comes last
    return names.compare(a, b) * (descending ? -1 : 1);
  };

  const byNumber = (column, descending) => (one, other) => {
    const [a, b] = [Number(keyOf(one, column)), Number(keyOf(other, column))];
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return (a - b) * (descending ? -1 : 1);
  };

  const sortBy = (button) => {
    const head = button.closest("th"), before = head.getAttribute("aria-sort");
    const other = { ascending: "descending", descending: "ascending" };
    const order = other[before] ?? button.dataset.first;
    heads.forEach((one) => one.setAttribute("aria-sort", one === head ? order : "none"));
    const rule = button.dataset.kind === "text" ? compare : byNumber;
    rows.sort(rule(Number(button.dataset.column), order === "descending"));
    body.append(...rows);
  };

  const search = () => {
    const words = document.getElementById("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const row of rows) {
      row.hidden = !words.every((word) => texts.get(row).includes(word));
      left += row.hidden ? 0 : 1;
    }
    document.getElementById("found").textContent = words.length ? `${left} of ${rows.length} patients` : "";
  };

  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) sortBy(button);
  });
  document.getElementById("search").addEventListener("input", search);
  document.getElementById("search-form").addEventListener("submit", (event) => event.preventDefault());
  search(); // a browser keeps what was typed before a reload
})();
