// Everything is in the page without this: it sorts tables by a click on a column.
"use strict";
for (const body of document.querySelectorAll("tbody.rows")) {
  const heads = [...body.parentElement.querySelectorAll("thead th")];
  heads.forEach((head, column) => {
    const name = head.querySelector("span");
    const button = document.createElement("button");
    button.textContent = name.textContent;
    name.replaceChildren(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      const order = (a, b) => {
        const [first, second] = [a, b].map((row) => row.cells[column].dataset.key);
        if (!first || !second) return Boolean(second) - Boolean(first); // what has no number is last
        return sign * (first - second || first.localeCompare(second));
      };
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      body.append(...[...body.rows].sort(order));
    });
  });
}
