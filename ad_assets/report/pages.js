"use strict";
(() => {
  // What is folded opens where a link leads to it, and on paper.
  const unfold = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const folded = target && target.closest("details");
    if (folded) { folded.open = true; target.scrollIntoView(); }
  };
  addEventListener("hashchange", unfold);
  unfold();
  let printed = [];
  addEventListener("beforeprint", () => {
    printed = [...document.querySelectorAll("details:not([open])")];
    for (const each of printed) each.open = true;
  });
  addEventListener("afterprint", () => { for (const each of printed) each.open = false; });

  // Filters: what has a lane, a verdict or a name shows if it fits all that is asked for.
  const filters = document.getElementById("filters");
  if (!filters) return;
  const field = (name) => filters.querySelector(`[name=${name}]`);
  const parts = [...document.querySelectorAll("[data-lane], [data-verdict], [data-name]")];
  const told = document.getElementById("told");
  const apply = () => {
    const asked = {};
    for (const name of ["lane", "verdict", "name"]) {
      asked[name] = field(name) ? field(name).value.trim().toLowerCase() : "";
    }
    const fits = (each, name) => !asked[name] || !(name in each.dataset)
      || (name === "name" ? each.dataset.name.toLowerCase().includes(asked.name)
        : each.dataset[name].toLowerCase() === asked[name]);
    const counted = parts.filter((each) => each.dataset.counted !== undefined);
    for (const each of parts) each.hidden = !["lane", "verdict", "name"].every((name) => fits(each, name));
    for (const each of document.querySelectorAll("details.gallery")) {
      const found = [...each.querySelectorAll("figure")].some((figure) => !figure.hidden);
      each.hidden = each.hidden || !found;
      each.open = found && Boolean(asked.verdict || asked.name || asked.lane);
    }
    const shown = counted.filter((each) => !each.hidden).length;
    told.textContent = `${shown} of ${counted.length} ${told.dataset.what}`;
  };
  filters.hidden = false;
  filters.addEventListener("input", apply);
  addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "/" && !typing && field("name")) { event.preventDefault(); field("name").focus(); }
    if (event.key === "Escape" && typing && filters.contains(typing)) { typing.value = ""; apply(); }
  });
})();
