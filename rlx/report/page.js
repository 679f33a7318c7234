"use strict";
(() => {
  const each = (selector, act, root = document) => root.querySelectorAll(selector).forEach(act);
  const sortValue = (cell) => (cell.dataset.value === "" ? null : cell.dataset.number ? Number(cell.dataset.value) : cell.dataset.value);

  const sort = (table, column, heading) => {
    const down = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    each("th", (other) => other.removeAttribute("aria-sort"), table);
    heading.setAttribute("aria-sort", down > 0 ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows];
    rows.sort((left, right) => {
      const a = sortValue(left.cells[column]), b = sortValue(right.cells[column]);
      if (a === null || b === null) return (a === null) - (b === null);
      return (typeof a === "number" ? a - b : a.localeCompare(b)) * down;
    });
    table.tBodies[0].append(...rows);
  };

  each("table.sortable", (table) => {
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      heading.querySelector("button").addEventListener("click", () => sort(table, column, heading));
    });
  });

  each("input[data-filter]", (input) => {
    const rows = document.getElementById(input.dataset.filter).tBodies[0].rows;
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    });
  });

  const announce = (note) => {
    const table = document.getElementById(note.dataset.of), box = table.parentElement.getBoundingClientRect();
    const names = [...table.tHead.rows[0].cells].filter((cell) => cell.getBoundingClientRect().right > box.right + 4).map((cell) => cell.textContent);
    note.hidden = names.length === 0;
    note.textContent = `Scroll the table to the right for: ${names.join(", ")}.`;
  };
  each(".hidden-columns", (note) => {
    announce(note);
    addEventListener("resize", () => announce(note));
    document.getElementById(note.dataset.of).parentElement.addEventListener("scroll", () => announce(note));
  });

  each(".choose", (line) => {
    const members = [...line.closest("figure").querySelectorAll(".member")], selects = [...line.querySelectorAll("select")];
    line.addEventListener("change", (event) => {
      const wanted = selects.map((select) => select.value);
      const fits = (member) => member.dataset.choice === wanted.join("|");
      const near = (member) => member.dataset.choice.split("|").includes(event.target.value);
      const shown = members.find(fits) || members.find(near);
      for (const member of members) member.hidden = member !== shown;
      const is = shown.dataset.choice.split("|");
      selects.forEach((select) => { select.value = [...select.options].map((option) => option.value).find((value) => is.includes(value)); });
    });
  });

  each("input[data-seeds]", (box) => {
    box.addEventListener("change", () => document.getElementById(box.dataset.seeds).classList.toggle("seeds", box.checked));
  });

  each(".legend button", (button) => {
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      each(`.v${button.dataset.variant}`, (mark) => mark.classList.toggle("hidden-variant", !shown), button.closest("figure"));
    });
  });

  const theme = document.getElementById("theme");
  theme.addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
})();
