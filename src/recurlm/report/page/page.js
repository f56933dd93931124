// What the report's page does: sorts tables, draws charts, hides variants, and colours a text.
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
    const compare = (one, other) => {
      const [a, b] = [value(one), value(other)];
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
    place: figure.querySelector(".chart"),
    spec: content(figure.querySelector("script")),
    view: null,
    wanted: false,
  }));
  const off = new Set();
  async function draw(figure) {
    figure.wanted = true;
    figure.view?.finalize();
    const drawn = await vegaEmbed(figure.place, figure.spec, {
      actions: false,
      renderer: "svg",
      config: { ...settings[dark.matches ? "dark" : "light"], legend: { disable: true } },
      tooltip: { theme: dark.matches ? "dark" : "light" },
    });
    figure.view = drawn.view;
    if (off.size) await figure.view.signal("off", [...off]).runAsync();
  }
  async function drawThe(those) {
    delete document.documentElement.dataset.drawn;
    for (const figure of those) await draw(figure);
    document.documentElement.dataset.drawn = figures.filter(({ view }) => view).length;
  }
  // A chart is drawn when it comes near, so that the page opens at once; paper wants them all.
  const near = new IntersectionObserver(
    (entries) => {
      const places = entries.filter((entry) => entry.isIntersecting).map((entry) => entry.target);
      const coming = figures.filter(({ place, wanted }) => places.includes(place) && !wanted);
      if (coming.length) drawThe(coming);
    },
    { rootMargin: "800px" },
  );
  figures.forEach(({ place }) => near.observe(place));
  addEventListener("beforeprint", () => drawThe(figures.filter(({ wanted }) => !wanted)));
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
  dark.addEventListener("change", () => drawThe(figures.filter(({ wanted }) => wanted)));

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

  // A text, coloured by surprise or by what one hidden unit held.
  for (const root of all(".coloured")) {
    const text = content(root.querySelector("script"));
    const [variant, by] = [root.querySelector(".variant"), root.querySelector(".by")];
    const [unitLabel, suggested] = [root.querySelector(".unit"), root.querySelector(".suggested")];
    const unit = unitLabel.querySelector("input");
    const [box, told] = [root.querySelector(".text"), root.querySelector(".told")];
    const tokens = text.tokens.map((token, place) => {
      const span = document.createElement("span");
      span.textContent = token;
      span.id = `token-${place}`;
      span.setAttribute("role", "option");
      span.addEventListener("pointerenter", () => select(place));
      span.addEventListener("click", () => select(place));
      return span;
    });
    box.replaceChildren(...tokens);
    let selected = -1;
    const reading = () => text.readings[variant.value];
    const layer = () => reading().layers[by.value];
    const bytes = new Map(); // layer → its activations, decoded when first asked for
    function activation(place) {
      const found = layer();
      if (!bytes.has(found)) bytes.set(found, Int8Array.from(atob(found.values), (letter) => letter.charCodeAt(0)));
      return (bytes.get(found)[place * found.units + Number(unit.value)] / 127) * found.scale;
    }
    const most = 12; // bits: beyond, the colour stays the same
    function background(place) {
      if (by.value === "surprise") {
        const share = Math.min(1, reading().bits[place] / most);
        return `rgba(var(--warm), calc(var(--strength) * ${share.toFixed(3)}))`;
      }
      const share = activation(place) / layer().scale;
      return `rgba(var(--${share < 0 ? "cool" : "warm"}), calc(var(--strength) * ${Math.abs(share).toFixed(3)}))`;
    }
    function tell() {
      if (selected < 0) return (told.textContent = "\u00a0");
      const { bits, expected, causal } = reading();
      const name = JSON.stringify(text.tokens[selected]);
      const surprise = `${bits[selected].toFixed(2)} ${causal ? "bits" : "pseudo-bits"}, p = ${(2 ** -bits[selected]).toPrecision(2)}`;
      const likeliest = expected.length ? `; expected most: ${JSON.stringify(expected[selected])}` : "";
      const held = by.value === "surprise" ? "" : `; unit ${unit.value} of ${layer().name}: ${activation(selected).toFixed(2)}`;
      told.textContent = `${name}: ${surprise}${likeliest}${held}`;
    }
    function select(place) {
      tokens[selected]?.removeAttribute("aria-selected");
      selected = place;
      tokens[place].setAttribute("aria-selected", "true");
      box.setAttribute("aria-activedescendant", tokens[place].id);
      tell();
    }
    function colour() {
      const surprise = by.value === "surprise";
      unitLabel.hidden = suggested.hidden = surprise;
      if (!surprise) {
        unit.max = layer().units - 1;
        unit.value = Math.max(0, Math.min(layer().units - 1, Math.trunc(Number(unit.value)) || 0));
      }
      tokens.forEach((span, place) => (span.style.background = background(place)));
      const [low, bar, high] = root.querySelector(".scale").children;
      const full = (tone) => `rgba(var(--${tone}), var(--strength))`;
      low.textContent = surprise ? "0 bits" : (-layer().scale).toFixed(2);
      high.textContent = surprise ? `${most} bits or more` : layer().scale.toFixed(2);
      bar.style.background = `linear-gradient(to right, ${surprise ? "" : `${full("cool")}, `}transparent, ${full("warm")})`;
      tell();
    }
    function suggest() {
      if (by.value === "surprise") return;
      const buttons = layer().suggested.map((number) => {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = number;
        button.addEventListener("click", () => ((unit.value = number), colour()));
        return button;
      });
      suggested.replaceChildren("Try: ", ...buttons);
      unit.value = layer().suggested[0] ?? 0;
    }
    function read() {
      const options = reading().layers.map((found, number) => new Option(`hidden units, ${found.name}`, number));
      const kept = by.value;
      by.replaceChildren(new Option("surprise", "surprise"), ...options);
      by.value = kept !== "surprise" && Number(kept) >= options.length ? "surprise" : kept;
      suggest();
      colour();
    }
    variant.addEventListener("change", read);
    by.addEventListener("change", () => (suggest(), colour()));
    unit.addEventListener("input", colour);
    box.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 }[event.key];
      if (!step) return;
      event.preventDefault();
      select(Math.max(0, Math.min(tokens.length - 1, selected < 0 ? 0 : selected + step)));
    });
    read();
  }
})();
