// Everything is in the page without this: it lets readers choose a figure, sort, and see numbers.
(() => {
  "use strict";
  document.documentElement.classList.add("scripted");
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];

  // One choice of a figure for all pictures that have it.
  const choose = (metric) => {
    hide();
    for (const group of all(".chart-group")) {
      const charts = all(".chart", group);
      if (!charts.some((chart) => chart.dataset.metric === metric)) continue;
      for (const chart of charts) chart.hidden = chart.dataset.metric !== metric;
      for (const select of all("select", group)) select.value = metric;
    }
  };
  for (const picker of all(".picker")) {
    picker.hidden = false;
    const select = picker.querySelector("select");
    select.selectedIndex = 0;
    select.addEventListener("change", () => choose(select.value));
  }

  // The figures of the nearest mark, by mouse, finger or keyboard.
  const tip = document.getElementById("tip");
  let shown = null;
  function hide() {
    if (shown) shown.classList.remove("near");
    shown = null;
    tip.hidden = true;
  }
  const middle = (point) => {
    const box = point.querySelector("svg path").getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };
  function show(point) {
    if (point === shown) return;
    hide();
    shown = point;
    point.classList.add("near");
    tip.replaceChildren(
      ...JSON.parse(point.dataset.facts).map((fact) => {
        const line = document.createElement("div");
        line.textContent = fact;
        return line;
      }),
    );
    put();
  }
  function put() {
    if (!shown) return;
    const [x, y] = middle(shown);
    tip.hidden = y < 0 || y > innerHeight;
    const left = Math.min(Math.max(8, x - tip.offsetWidth / 2), innerWidth - tip.offsetWidth - 8);
    const above = y - tip.offsetHeight - 16;
    tip.style.transform = `translate(${left}px, ${above > 8 ? above : y + 18}px)`;
  }
  for (const plot of all(".plot")) {
    const points = all(".point", plot);
    const seek = (event) => {
      let nearest = null;
      let least = event.pointerType === "touch" ? 40 : 26;
      for (const point of points) {
        const [x, y] = middle(point);
        const distance = Math.hypot(event.clientX - x, event.clientY - y);
        if (distance < least) [nearest, least] = [point, distance];
      }
      if (nearest) show(nearest);
      else hide();
    };
    plot.addEventListener("pointermove", seek);
    plot.addEventListener("pointerdown", seek);
    plot.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "touch") hide();
    });
    for (const point of points) {
      for (const title of all("title", point)) title.remove();
      point.addEventListener("focus", () => show(point));
      point.addEventListener("blur", hide);
    }
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
  });
  addEventListener("scroll", put, { passive: true });
  addEventListener("resize", put);

  // Tables sort by a click on a column; what has no number stays last.
  for (const table of all("table")) {
    const heads = all("thead th", table);
    const body = table.querySelector("tbody.rows");
    if (!body || body.rows.length < 2) continue;
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      const name = head.querySelector("span");
      button.type = "button";
      button.textContent = name.textContent;
      name.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        const key = (row) => row.cells[column].dataset.key;
        const order = (a, b) => {
          const [first, second] = [key(a), key(b)];
          if (!first || !second) return Boolean(second) - Boolean(first);
          const number = Number(first) - Number(second);
          const by = Number.isNaN(number) ? first.localeCompare(second) : number;
          return up ? by : -by;
        };
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        body.append(...[...body.rows].sort(order));
      });
    });
  }
})();
