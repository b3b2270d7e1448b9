"use strict";
// Sorting, weights, images and folding. Without it the page shows the same numbers.
(() => {
  const root = document.documentElement;
  root.dataset.errors = "0";
  addEventListener("error", () => { root.dataset.errors = String(Number(root.dataset.errors) + 1); });
  root.classList.add("js");

  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const read = (id) => {
    const element = document.getElementById(id);
    return element && JSON.parse(element.textContent);
  };

  // -- sorting: a click on a metric sorts the rows of all tables ---------------------------------

  // Best first, worst first, as it was. Missing values always stand last.
  const STATES = ["none", "best", "worst"];
  // Best first is a rising column where lower is better, and neither where a target is.
  const ARIA = { lower: ["ascending", "descending"], higher: ["descending", "ascending"], target: ["other", "other"] };

  function sorting() {
    const tables = all("table.results");
    const status = document.getElementById("sorted");
    if (!tables.length || !status) return;
    const [text, reset] = [status.querySelector("span"), status.querySelector("button")];
    const hint = text.textContent;
    let current = null;
    let state = "none";

    const place = (order) => tables.forEach((table) => {
      const rows = new Map(all("tbody tr", table).map((row) => [Number(row.dataset.row), row]));
      table.tBodies[0].append(...order.map((index) => rows.get(index)));
    });

    function order(head) {
      const table = head.closest("table");
      const merits = all("tbody tr", table).map((row) => {
        const merit = row.cells[head.cellIndex].dataset.merit;
        return [Number(row.dataset.row), merit === undefined ? null : Number(merit)];
      });
      const sign = state === "worst" ? -1 : 1;
      merits.sort(([i, a], [j, b]) => {
        if (state === "none" || a === b) return i - j;
        if (a === null || b === null) return a === null ? 1 : -1;
        return sign * (a - b);
      });
      return merits.map(([index]) => index);
    }

    function sort(head) {
      state = head === current ? STATES[(STATES.indexOf(state) + 1) % 3] : "best";
      current = head;
      place(order(head));
      all("th[aria-sort]").forEach((other) => {
        other.removeAttribute("aria-sort");
        delete other.dataset.state;
      });
      reset.hidden = state === "none";
      text.textContent = hint;
      if (state === "none") return;
      head.setAttribute("aria-sort", ARIA[head.dataset.direction][state === "best" ? 0 : 1]);
      head.dataset.state = state;
      const label = head.querySelector("button b").textContent;
      text.textContent = `All tables are sorted by ${label}, ${state} first.`;
    }

    all("th[data-direction]").forEach((head) => {
      head.querySelector("button").addEventListener("click", () => sort(head));
    });
    reset.addEventListener("click", () => { state = "worst"; sort(current); });
  }

  // -- weights ----------------------------------------------------------------------------------

  // The weighted harmonic mean; at the ends one of the two counts alone.
  function weightedMean(site, biology, weight) {
    if (weight === 0) return biology;
    if (weight === 1) return site;
    const below = weight * biology + (1 - weight) * site;
    return below === 0 ? 0 : site * biology / below;
  }

  function weights() {
    const data = read("weights-data");
    const slider = document.getElementById("weight");
    if (!data || !slider) return;
    const list = document.querySelector("ol.ranking");
    const shown = document.getElementById("weight-shown");
    const now = document.getElementById("weight-now");
    const items = new Map(all("li", list).map((item) => [Number(item.dataset.place), item]));

    function ranked(weight) {
      const found = data.methods.map((method) => {
        const means = method.axes.map(([site, biology]) => weightedMean(site, biology, weight));
        return { place: method.place, value: means.reduce((a, b) => a + b) / means.length };
      });
      found.forEach((each) => {
        const above = found.filter((other) => other.value > each.value + data.tie).length;
        const equal = found.filter((other) => Math.abs(other.value - each.value) <= data.tie).length;
        // Equal values share the mean of their ranks, as in the table.
        each.rank = above + (equal + 1) / 2;
      });
      return found.sort((a, b) => a.rank - b.rank || a.place - b.place);
    }

    function show() {
      const weight = Number(slider.value) / Number(slider.max);
      shown.textContent = weight.toFixed(2);
      slider.setAttribute("aria-valuetext", `site removal ${weight.toFixed(2)}, biology kept ${(1 - weight).toFixed(2)}`);
      ranked(weight).forEach(({ place, value, rank }) => {
        const item = items.get(place);
        item.querySelector(".rank").textContent = String(rank);
        item.querySelector(".value").textContent = value.toFixed(3);
        item.querySelector(".bar i").style.width = `${(100 * value).toFixed(2)}%`;
        list.append(item);
      });
      now.setAttribute("transform", `translate(${Number(now.dataset.width) * weight})`);
    }

    slider.addEventListener("input", show);
    show();
  }

  // -- images -----------------------------------------------------------------------------------

  function stepper() {
    const box = document.getElementById("stepper");
    const data = read("stepper-data");
    if (!box || !data) return;
    const [select, images] = [box.querySelector("select"), all("img", box)];
    const prefix = "data:image/png;base64,";
    data[0] = images.map((image) => image.src.slice(prefix.length));

    function show(index) {
      const at = (index + data.length) % data.length;
      select.selectedIndex = at;
      document.getElementById("stepper-at").textContent = String(at + 1);
      images.forEach((image, k) => { image.src = prefix + data[at][k]; });
    }

    select.addEventListener("change", () => show(select.selectedIndex));
    all("button[data-step]", box).forEach((button) => {
      button.addEventListener("click", () => show(select.selectedIndex + Number(button.dataset.step)));
    });
    box.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step || event.target === select || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      show(select.selectedIndex + step);
    });
    // A reload may bring back the choice of before.
    show(Math.max(select.selectedIndex, 0));
  }

  // -- folding: figures that repeat what stands above them are folded on screen, not on paper -----

  function folding() {
    const folded = all("details.folded");
    const set = (open) => folded.forEach((each) => { each.open = open; });
    set(false);
    addEventListener("beforeprint", () => set(true));
    addEventListener("afterprint", () => set(false));
  }

  [sorting, weights, stepper, folding].forEach((part) => part());
  root.dataset.ready = "1";
})();
