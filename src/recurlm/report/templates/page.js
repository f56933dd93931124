// The report's page: sorts tables, draws charts, hides variants, and colours the token heat map.
"use strict";
(() => {
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const content = (element) => JSON.parse(element.textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // Tables: a click, Enter or Space on a head sorts by its column; a second time, the other way round.
  function sort(table, column, head) {
    const body = table.tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending";
    const value = (row) => {
      const cell = row.cells[column];
      const number = cell.dataset.value === undefined ? parseFloat(cell.textContent.replaceAll(",", "")) : +cell.dataset.value;
      return { number, text: cell.textContent };
    };
    const compare = (first, second) => {
      const [a, b] = [value(first), value(second)];
      if (Number.isNaN(a.number) !== Number.isNaN(b.number)) return Number.isNaN(a.number) ? 1 : -1; // no number: last
      const order = Number.isNaN(a.number) ? a.text.localeCompare(b.text) : a.number - b.number;
      return up ? order : -order;
    };
    body.append(...all("tr", body).sort(compare));
    all("th[aria-sort]", table).forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
  }
  for (const table of all("main table")) {
    if (table.tBodies[0].rows.length < 2) continue;
    all("thead tr:last-child th", table).forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, column, head));
      head.append(button);
    });
  }

  // Charts: each has its own legend, and a variant is hidden on all of them.
  const settings = content(document.getElementById("settings"));
  const figures = all("figure").map((figure) => ({
    element: figure.querySelector(".chart"),
    // The buttons are the legend; Vega's own are for the SVG files.
    spec: JSON.parse(figure.querySelector("script").textContent, (key, value) => (key === "legend" ? null : value)),
    view: null,
    requested: false,
  }));
  const off = new Set();
  async function draw(figure) {
    figure.requested = true;
    figure.view?.finalize();
    const drawn = await vegaEmbed(figure.element, figure.spec, {
      actions: false,
      renderer: "svg",
      config: settings[dark.matches ? "dark" : "light"],
      tooltip: { theme: dark.matches ? "dark" : "light" },
    });
    figure.view = drawn.view;
    if (off.size) await figure.view.signal("off", [...off]).runAsync();
  }
  async function drawAll(batch) {
    delete document.documentElement.dataset.drawn;
    for (const figure of batch) await draw(figure);
    document.documentElement.dataset.drawn = figures.filter(({ view }) => view).length;
  }
  // A chart is drawn when it scrolls near, so that the page opens at once; printing draws all of them.
  const near = new IntersectionObserver(
    (entries) => {
      const visible = entries.filter((entry) => entry.isIntersecting).map((entry) => entry.target);
      const pending = figures.filter(({ element, requested }) => visible.includes(element) && !requested);
      if (pending.length) drawAll(pending);
    },
    { rootMargin: "800px" },
  );
  figures.forEach(({ element }) => near.observe(element));
  addEventListener("beforeprint", () => drawAll(figures.filter(({ requested }) => !requested)));
  for (const button of all(".legend button")) {
    button.addEventListener("click", () => {
      const name = button.dataset.variant;
      if (!off.delete(name)) off.add(name);
      for (const same of all(".legend button")) {
        if (same.dataset.variant === name) same.setAttribute("aria-pressed", String(!off.has(name)));
      }
      for (const { view } of figures) view?.signal("off", [...off]).runAsync();
    });
  }
  dark.addEventListener("change", () => drawAll(figures.filter(({ requested }) => requested)));

  // Texts at several temperatures: one variant and one text of each temperature at a time.
  for (const chosen of all(".chosen.texts")) {
    const section = chosen.closest("section");
    const [variant, number] = [chosen.querySelector(".variant"), chosen.querySelector(".number")];
    const show = () => {
      for (const group of all(".temperatures", section)) {
        group.hidden = group.dataset.variant !== variant.value;
        group.style.display = group.hidden ? "none" : "";
        all("pre", group).forEach((text) => (text.hidden = text.dataset.number !== number.value));
      }
    };
    variant.addEventListener("change", show);
    number.addEventListener("change", show);
    show();
  }

  // Token heat map: coloured by surprisal, or by one unit of a state.
  for (const root of all(".heat-map")) {
    const heatMap = content(root.querySelector("script"));
    const [variant, quantity] = [root.querySelector(".variant"), root.querySelector(".quantity")];
    const [unitLabel, suggested] = [root.querySelector(".unit"), root.querySelector(".suggested")];
    const unit = unitLabel.querySelector("input");
    const [box, details] = [root.querySelector(".text"), root.querySelector(".details")];
    const tokens = heatMap.tokens.map((token, index) => {
      const span = document.createElement("span");
      span.textContent = token;
      span.id = `token-${index}`;
      span.setAttribute("role", "option");
      span.addEventListener("pointerenter", () => select(index));
      span.addEventListener("click", () => select(index));
      return span;
    });
    box.replaceChildren(...tokens);
    let selected = -1;
    const trace = () => heatMap.traces[variant.value];
    const state = () => trace().states[quantity.value];
    const decoded = new Map(); // state → its activations, decoded on first use
    function activation(index) {
      const shown = state();
      if (!decoded.has(shown)) decoded.set(shown, Int8Array.from(atob(shown.values), (letter) => letter.charCodeAt(0)));
      return (decoded.get(shown)[index * shown.units + Number(unit.value)] / 127) * shown.scale;
    }
    const maxBits = 12; // the colour scale ends here
    function background(index) {
      if (quantity.value === "surprisal") {
        const fraction = Math.min(1, trace().bits[index] / maxBits);
        return `rgba(var(--warm), calc(var(--strength) * ${fraction.toFixed(3)}))`;
      }
      const fraction = activation(index) / state().scale;
      return `rgba(var(--${fraction < 0 ? "cool" : "warm"}), calc(var(--strength) * ${Math.abs(fraction).toFixed(3)}))`;
    }
    function showDetails() {
      if (selected < 0) return (details.textContent = "\u00a0");
      const { bits, unit: bitsUnit, likeliest } = trace();
      const name = JSON.stringify(heatMap.tokens[selected]);
      const surprisal = `${bits[selected].toFixed(2)} ${bitsUnit}, p = ${(2 ** -bits[selected]).toPrecision(2)}`;
      const top = likeliest.length ? `; likeliest: ${JSON.stringify(likeliest[selected])}` : "";
      const value = quantity.value === "surprisal" ? "" : `; unit ${unit.value} of ${state().name}: ${activation(selected).toFixed(2)}`;
      details.textContent = `${name}: ${surprisal}${top}${value}`;
    }
    function select(index) {
      tokens[selected]?.removeAttribute("aria-selected");
      selected = index;
      tokens[index].setAttribute("aria-selected", "true");
      box.setAttribute("aria-activedescendant", tokens[index].id);
      showDetails();
    }
    function colour() {
      const surprisal = quantity.value === "surprisal";
      unitLabel.hidden = suggested.hidden = surprisal;
      if (!surprisal) {
        unit.max = state().units - 1;
        unit.value = Math.max(0, Math.min(state().units - 1, Math.trunc(Number(unit.value)) || 0));
      }
      tokens.forEach((span, index) => (span.style.background = background(index)));
      const [low, bar, high] = root.querySelector(".scale").children;
      const full = (tone) => `rgba(var(--${tone}), var(--strength))`;
      low.textContent = surprisal ? "0 bits" : (-state().scale).toFixed(2);
      high.textContent = surprisal ? `${maxBits} bits or more` : state().scale.toFixed(2);
      bar.style.background = `linear-gradient(to right, ${surprisal ? "" : `${full("cool")}, `}transparent, ${full("warm")})`;
      showDetails();
    }
    function suggest() {
      if (quantity.value === "surprisal") return;
      const buttons = state().suggested.map((number) => {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = number;
        button.addEventListener("click", () => ((unit.value = number), colour()));
        return button;
      });
      suggested.replaceChildren("Try: ", ...buttons);
      unit.value = state().suggested[0] ?? 0;
    }
    function update() {
      const options = trace().states.map(({ name }, number) => new Option(`state ${name}`, number));
      const previous = quantity.value;
      quantity.replaceChildren(new Option("surprisal", "surprisal"), ...options);
      quantity.value = previous !== "surprisal" && Number(previous) >= options.length ? "surprisal" : previous;
      suggest();
      colour();
    }
    variant.addEventListener("change", update);
    quantity.addEventListener("change", () => (suggest(), colour()));
    unit.addEventListener("input", colour);
    box.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 }[event.key];
      if (!step) return;
      event.preventDefault();
      select(Math.max(0, Math.min(tokens.length - 1, selected < 0 ? 0 : selected + step)));
    });
    update();
  }
})();
