// Everything is in the page without this: it sorts tables by a click on a column.
"use strict";
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.querySelectorAll("thead th")];
  const body = table.querySelector("tbody.rows");
  if (!body || body.rows.length < 2) continue;
  heads.forEach((head, column) => {
    const name = head.querySelector("span");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name.textContent;
    name.replaceChildren(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      const order = (a, b) => {
        const [first, second] = [a, b].map((row) => row.cells[column].dataset.key);
        if (!first || !second) return Boolean(second) - Boolean(first); // what has no number is last
        const difference = Number(first) - Number(second);
        return sign * (Number.isNaN(difference) ? first.localeCompare(second) : difference);
      };
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      body.append(...[...body.rows].sort(order));
    });
  });
}
