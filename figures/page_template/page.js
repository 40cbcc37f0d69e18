"use strict";
(() => {
  // ---- data -------------------------------------------------------------------------------------------------

  const DATA = JSON.parse(document.getElementById("payload").textContent);
  const KINDS = { uint16: Uint16Array, uint32: Uint32Array, int16: Int16Array, float64: Float64Array };

  function unpacked(array) {
    const bytes = Uint8Array.from(atob(array.data), (sign) => sign.charCodeAt(0));
    return new KINDS[array.kind](bytes.buffer);
  }

  function unpackAll(node) {
    for (const [key, value] of Object.entries(node)) {
      if (value === null || typeof value !== "object") continue;
      if (typeof value.kind === "string" && typeof value.data === "string") node[key] = unpacked(value);
      else unpackAll(value);
    }
  }

  DATA.results.forEach(unpackAll);
  DATA.pairs.forEach(unpackAll);
  for (const each of [...DATA.results, ...DATA.pairs]) {
    if (each.layers) each.at = new Map(each.layers.map((layer, position) => [layer, position]));
    if (each.languages) each.index = new Map(each.languages.map((code, position) => [code, position]));
  }

  const GROUPS = DATA.groups;
  const UNKNOWN = "not known";

  const state = {
    view: "base", other: 1, layer: 0, sort: "family", scale: "data", scores: 0,
    hidden: new Set(), curves: new Set(["mean", "low"]), cell: null,
  };

  const $ = (id) => document.getElementById(id);
  const heat = $("heat");
  const base = DATA.results[0];

  // ---- what is looked at ------------------------------------------------------------------------------------

  const pair = () => DATA.pairs[state.other - 1];
  const differing = () => state.view === "difference";
  const result = () => (state.view === "base" ? base : DATA.results[state.other]);
  const layers = () => (differing() ? pair().layers : result().layers);
  const nameOf = () => (differing() ? `${result().name} − ${base.name}` : result().name);
  const shownCodes = () => ordered(result().languages).filter((code) => !state.hidden.has(code));

  const correct = (of, layer, i, j) => {
    const n = of.languages.length;
    return of.counts[(of.at.get(layer) * n + i) * n + j];
  };
  const share = (of, layer, i, j) => correct(of, layer, i, j) / of.rows;

  /** The accuracy of a direction, or its difference, at a layer. */
  function value(layer, i, j) {
    return differing()
      ? (correct(result(), layer, i, j) - correct(base, layer, i, j)) / base.rows
      : share(result(), layer, i, j);
  }

  function interval(layer, i, j) {
    const of = differing() ? pair() : result();
    const n = result().languages.length;
    const place = (of.at.get(layer) * n + i) * n + j;
    return [of.low[place] / DATA.unit, of.high[place] / DATA.unit];
  }

  const languageMean = (of, relation, layer, code) =>
    of.means[relation][of.at.get(layer) * of.languages.length + of.index.get(code)];

  function languageValue(layer, code) {
    const own = languageMean(result(), "all", layer, code);
    return differing() ? own - languageMean(base, "all", layer, code) : own;
  }

  /** Mean over the directions among the shown languages; null where there is none. */
  function shownMean(layer, codes) {
    const places = codes.map((code) => result().index.get(code));
    let sum = 0;
    for (const i of places) for (const j of places) if (i !== j) sum += value(layer, i, j);
    return places.length > 1 ? sum / (places.length * (places.length - 1)) : null;
  }

  const curveOf = (of, group) => of.groups[group];
  const bestOf = (of, group) => {
    const values = curveOf(of, group).value;
    return of.layers[values.indexOf(Math.max(...values))];
  };

  const SORTS = {
    family: (code) => DATA.languages[code].family || UNKNOWN,
    resource: (code) => DATA.languages[code].level || UNKNOWN,
    script: (code) => DATA.languages[code].script || UNKNOWN,
  };

  function ordered(codes) {
    const byName = (a, b) => DATA.languages[a].name.localeCompare(DATA.languages[b].name, "en");
    if (state.sort === "given") return [...codes];
    if (state.sort === "name") return [...codes].sort(byName);
    if (state.sort === "accuracy") {
      return [...codes].sort((a, b) => languageValue(state.layer, b) - languageValue(state.layer, a) || byName(a, b));
    }
    const key = SORTS[state.sort];
    const last = (code) => (key(code) === UNKNOWN ? 1 : 0);
    return [...codes].sort((a, b) => last(a) - last(b) || key(a).localeCompare(key(b), "en") || byName(a, b));
  }

  // ---- text -------------------------------------------------------------------------------------------------

  const signed = (number, digits) => {
    const text = Math.abs(number).toFixed(digits);
    return Number(text) === 0 ? text : (number < 0 ? "−" : "+") + text;
  };
  const percent = (number) => `${(100 * number).toFixed(1)} %`;
  const points = (number) => signed(100 * number, 1);
  const told = (number) => (differing() ? `${points(number)} points` : percent(number));
  /** Means of many directions are known more finely than one direction: two digits where all of them are small. */
  const finely = () => (differing() && Math.max(...pair().groups.mean.value.map(Math.abs)) < 0.05 ? 2 : 1);
  const bare = (number) => (differing() ? signed(100 * number, finely()) : (100 * number).toFixed(1));
  const meanTold = (number) => `${bare(number)} ${differing() ? "points" : "%"}`;
  const bareRange = (low, high) => (differing() ? `${bare(low)} to ${bare(high)}` : `${bare(low)}–${bare(high)}`);
  const range = (low, high) =>
    differing() ? `${points(low)} to ${points(high)}` : `${(100 * low).toFixed(1)}–${(100 * high).toFixed(1)} %`;
  const pTold = (p) => (p < 0.001 ? "< 0.001" : p.toFixed(3));

  function element(tag, properties = {}, ...children) {
    const made = document.createElement(tag);
    for (const [key, entry] of Object.entries(properties)) {
      if (key in made) made[key] = entry;
      else made.setAttribute(key, entry);
    }
    made.append(...children);
    return made;
  }

  function drawn(tag, attributes = {}, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, entry] of Object.entries(attributes)) made.setAttribute(key, entry);
    made.append(...children);
    return made;
  }

  const autonym = (code) => {
    const language = DATA.languages[code];
    return element("span", { dir: "auto", lang: language.lang, className: "autonym" }, language.autonym || "");
  };

  /** Replace the children of a place, and give the focus back to what held it there. */
  function refill(place, children) {
    const held = place.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    place.replaceChildren(...children);
    if (held) place.querySelector(`[data-key="${CSS.escape(held)}"]`)?.focus();
  }

  const headings = (cells) => element("tr", {}, ...cells.map((cell) => (cell instanceof Node ? cell : element("th", { scope: "col" }, cell))));

  // ---- colours ----------------------------------------------------------------------------------------------

  const SEQUENTIAL = ["#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c", "#22a884", "#44bf70", "#7ad151", "#bddf26", "#fde725"];
  const DIVERGING = {
    light: ["#7f3b08", "#b8620f", "#e39a3b", "#f5cf96", "#f4f3f0", "#a9cfe6", "#5ba0cc", "#2268a8", "#053061"],
    dark: ["#ffd9a0", "#f0a24a", "#b86a1a", "#6b4218", "#26292d", "#1d4a70", "#2f7bb5", "#74b6e4", "#cfeaff"],
  };

  const isDark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const anchors = () => (differing() ? DIVERGING[isDark() ? "dark" : "light"] : SEQUENTIAL);

  /** 256 colours [r, g, b], interpolated between anchors. */
  function table(hexes) {
    const rgb = hexes.map((hex) => [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16)));
    return Array.from({ length: 256 }, (_, step) => {
      const at = (step / 255) * (rgb.length - 1);
      const left = Math.min(Math.floor(at), rgb.length - 2);
      return rgb[left].map((channel, k) => Math.round(channel + (at - left) * (rgb[left + 1][k] - channel)));
    });
  }

  const TABLES = new Map();
  function colours() {
    const hexes = anchors();
    if (!TABLES.has(hexes)) TABLES.set(hexes, table(hexes));
    return TABLES.get(hexes);
  }

  const LARGEST = new Map();
  /** The largest absolute value of all cells and layers, rounded up: the end of the colour scale, the same at every layer. */
  function largest() {
    if (state.scale === "full") return 1;
    const key = `${differing()} ${state.other}`;
    if (!LARGEST.has(key)) {
      let most = 0;
      if (differing()) {
        const n = base.languages.length;
        for (const layer of layers()) {
          for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) if (i !== j) most = Math.max(most, Math.abs(value(layer, i, j)));
        }
      } else {
        for (const each of DATA.results) most = Math.max(most, each.counts.reduce((a, b) => Math.max(a, b), 0) / each.rows);
      }
      const step = most > 0.2 ? 0.1 : most > 0.02 ? 0.01 : 0.001;
      LARGEST.set(key, Math.min(1, Math.max(step, Math.ceil(most / step - 1e-9) * step)));
    }
    return LARGEST.get(key);
  }

  function colour(number) {
    const t = differing() ? (number / largest() + 1) / 2 : number / largest();
    return colours()[Math.max(0, Math.min(255, Math.round(255 * t)))];
  }

  function drawLegend() {
    $("ramp").style.background = `linear-gradient(to right, ${anchors().join(", ")})`;
    const most = largest();
    const ticks = differing() ? [-1, -0.5, 0, 0.5, 1] : [0, 0.25, 0.5, 0.75, 1];
    const digits = [0, 1, 2].find((places) => ticks.every((tick) => Math.abs((100 * tick * most * 10 ** places) % 1) < 1e-6)) ?? 3;
    $("ramp-ticks").replaceChildren(
      ...ticks.map((tick) => {
        const number = 100 * tick * most;
        const text = differing() ? signed(number, digits) : number.toFixed(digits);
        const mark = element("span", {}, Math.abs(tick) === 1 ? `${text} ${differing() ? "points" : "%"}` : text);
        mark.style.left = `${differing() ? 50 * (tick + 1) : 100 * tick}%`;
        return mark;
      }),
    );
  }

  // ---- the heat map -----------------------------------------------------------------------------------------

  let map = { codes: [], left: 0, top: 0, cell: 0 };

  function drawHeat() {
    const codes = shownCodes();
    const enough = codes.length > 1;
    $("heat-box").hidden = !enough;
    $("heat-empty").hidden = enough;
    $("heat-mean").hidden = !enough;
    drawLegend();
    if (!enough) {
      hideTip();
      return;
    }
    const pen = heat.getContext("2d");
    const style = getComputedStyle(heat);
    const room = $("heat-box").clientWidth;
    const wide = room >= 540;
    const font = `11px ${style.fontFamily}`;
    const rowName = (code) => (wide ? DATA.languages[code].name : DATA.languages[code].short);
    pen.font = font;
    const widest = (names) => Math.max(...names.map((name) => pen.measureText(name).width));
    const left = Math.ceil(Math.min(wide ? 170 : 60, widest(codes.map(rowName)))) + 8;
    const top = Math.ceil(widest(codes.map((code) => DATA.languages[code].short))) + 8;
    const cell = Math.max(9, Math.min(44, Math.floor((room - left - 2) / codes.length)));
    const [width, height] = [left + cell * codes.length + 2, top + cell * codes.length + 2];
    const ratio = window.devicePixelRatio || 1;
    heat.width = Math.round(width * ratio);
    heat.height = Math.round(height * ratio);
    heat.style.width = `${width}px`;
    heat.style.height = `${height}px`;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.font = font;
    map = { codes, left, top, cell };
    Object.assign(heat.dataset, { left, top, cell, order: codes.join(" ") });

    const places = codes.map((code) => result().index.get(code));
    const gap = cell >= 12 ? 1 : 0;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    for (let a = 0; a < codes.length; a++) {
      for (let b = 0; b < codes.length; b++) {
        if (a === b) {
          strike(pen, style.color, left + b * cell, top + a * cell, cell - gap);
          continue;
        }
        const number = value(state.layer, places[a], places[b]);
        const rgb = colour(number);
        pen.fillStyle = `rgb(${rgb.join(",")})`;
        pen.fillRect(left + b * cell, top + a * cell, cell - gap, cell - gap);
        if (cell >= 30) {
          pen.fillStyle = rgb[0] * 0.299 + rgb[1] * 0.587 + rgb[2] * 0.114 > 140 ? "#14161a" : "#ffffff";
          pen.fillText(differing() ? signed(100 * number, 0) : (100 * number).toFixed(0), left + (b + 0.5) * cell, top + (a + 0.5) * cell);
        }
      }
    }
    drawSeparators(pen, style.color);
    drawLabels(pen, style.color, rowName);
    drawFocus(pen, style.color);
    const mean = shownMean(state.layer, codes);
    const among = codes.length === result().languages.length ? "" : " shown";
    $("heat-mean").textContent = `Mean of the ${(codes.length * (codes.length - 1)).toLocaleString("en")}${among} directions: ${meanTold(mean)}.`;
    $("heat-mean").dataset.value = mean;
  }

  /** A cell of the diagonal: struck through, so that it is no value. */
  function strike(pen, ink, x, y, size) {
    pen.strokeStyle = ink;
    pen.globalAlpha = 0.3;
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(x, y);
    pen.lineTo(x + size, y + size);
    pen.stroke();
    pen.globalAlpha = 1;
  }

  function drawSeparators(pen, ink) {
    const key = SORTS[state.sort];
    if (!key || map.cell < 9) return;
    const end = map.codes.length * map.cell;
    pen.strokeStyle = ink;
    pen.globalAlpha = 0.45;
    pen.lineWidth = 1;
    pen.beginPath();
    map.codes.forEach((code, at) => {
      if (at === 0 || key(code) === key(map.codes[at - 1])) return;
      const line = at * map.cell - 0.5;
      pen.moveTo(map.left - 6, map.top + line);
      pen.lineTo(map.left + end, map.top + line);
      pen.moveTo(map.left + line, map.top - 4);
      pen.lineTo(map.left + line, map.top + end);
    });
    pen.stroke();
    pen.globalAlpha = 1;
  }

  function drawLabels(pen, ink, rowName) {
    const every = Math.ceil(10 / map.cell);
    const held = heldCell();
    pen.fillStyle = ink;
    pen.textBaseline = "middle";
    map.codes.forEach((code, at) => {
      const middle = (at + 0.5) * map.cell;
      const labelled = at % every === 0;
      pen.globalAlpha = held && held[0] !== at ? 0.55 : 1;
      pen.textAlign = "right";
      if (labelled || (held && held[0] === at)) pen.fillText(rowName(code), map.left - 6, map.top + middle, map.left - 8);
      pen.globalAlpha = held && held[1] !== at ? 0.55 : 1;
      if (!labelled && !(held && held[1] === at)) return;
      pen.save();
      pen.translate(map.left + middle, map.top - 5);
      pen.rotate(-Math.PI / 2);
      pen.textAlign = "left";
      pen.fillText(DATA.languages[code].short, 0, 0);
      pen.restore();
    });
    pen.globalAlpha = 1;
  }

  function drawFocus(pen, ink) {
    const held = heldCell();
    if (!held) return;
    const [x, y] = [map.left + held[1] * map.cell, map.top + held[0] * map.cell];
    pen.lineWidth = 3;
    pen.strokeStyle = isDark() ? "#000000" : "#ffffff";
    pen.strokeRect(x - 1, y - 1, map.cell + 1, map.cell + 1);
    pen.lineWidth = 1.5;
    pen.strokeStyle = ink;
    pen.strokeRect(x - 1, y - 1, map.cell + 1, map.cell + 1);
  }

  /** Row and column of the cell that is read, where both languages are shown. */
  function heldCell() {
    if (!state.cell) return null;
    const place = state.cell.map((code) => map.codes.indexOf(code));
    return place.includes(-1) ? null : place;
  }

  /** All that is known of one direction at this layer. */
  function direction(src, tgt) {
    const [i, j] = [result().index.get(src), result().index.get(tgt)];
    const [low, high] = interval(state.layer, i, j);
    const controls = Object.fromEntries(
      Object.entries(result().controls).map(([name, control]) => [name, control.counts[i * result().languages.length + j] / result().rows]),
    );
    const found = { value: value(state.layer, i, j), low, high, n: result().rows, controls };
    return differing()
      ? { ...found, base: share(base, state.layer, i, j), other: share(result(), state.layer, i, j) }
      : { ...found, correct: correct(result(), state.layer, i, j) };
  }

  function readCell(aloud) {
    const held = heldCell();
    drawHeat();
    if (!held) {
      hideTip();
      return;
    }
    const [src, tgt] = state.cell;
    const found = direction(src, tgt);
    const name = (code) => DATA.languages[code].name;
    const line = (mark, code) => [
      element("span", { className: "arrow" }, mark),
      element("span", {}, element("b", {}, name(code)), " ", autonym(code), " ", element("span", { className: "code" }, code)),
    ];
    const lines = [element("div", { className: "pair" }, ...line("from", src), ...line("to", tgt))];
    if (differing()) {
      lines.push(
        element("div", {}, element("b", { className: "value" }, `${points(found.value)} points`), ` (${percent(found.base)} → ${percent(found.other)})`),
        element("div", { className: "interval" }, `95 % interval ${range(found.low, found.high)}, n = ${found.n}`),
      );
    } else {
      lines.push(
        element("div", {}, "accuracy ", element("b", { className: "value" }, percent(found.value)), ` (${found.correct} of ${found.n})`),
        element("div", { className: "interval" }, `95 % interval ${range(found.low, found.high)}, n = ${found.n}`),
      );
    }
    const controls = Object.entries(found.controls).map(([control, accuracy]) => `${control} ${percent(accuracy)}`);
    if (controls.length) lines.push(element("div", { className: "more" }, `controls: ${controls.join(", ")}`));
    $("tip").replaceChildren(...lines);
    placeTip(held);
    if (aloud) {
      $("heat-said").textContent = `${name(src)} to ${name(tgt)}: ${told(found.value)}, interval ${range(found.low, found.high)}, n ${found.n}`;
    }
  }

  function placeTip([a, b]) {
    const tip = $("tip");
    tip.hidden = false;
    const box = heat.getBoundingClientRect();
    const [x, y] = [box.left + map.left + (b + 1) * map.cell, box.top + map.top + (a + 1) * map.cell];
    const [width, height] = [tip.offsetWidth, tip.offsetHeight];
    const across = x + 12 + width < innerWidth ? x + 12 : x - map.cell - 12 - width;
    const down = y + 8 + height < innerHeight ? y + 8 : y - map.cell - 8 - height;
    tip.style.transform = `translate(${Math.round(Math.max(8, Math.min(across, innerWidth - width - 8)))}px, ${Math.round(Math.max(8, down))}px)`;
  }

  function hideTip() {
    $("tip").hidden = true;
  }

  function letGo() {
    if (!state.cell) return;
    state.cell = null;
    hideTip();
    drawHeat();
  }

  function cellUnder(event) {
    const box = heat.getBoundingClientRect();
    const at = [event.clientY - box.top - map.top, event.clientX - box.left - map.left].map((offset) => Math.floor(offset / map.cell));
    const inside = at.every((place) => place >= 0 && place < map.codes.length) && at[0] !== at[1];
    return inside ? at.map((place) => map.codes[place]) : null;
  }

  function pointAt(event) {
    const cell = cellUnder(event);
    if (!cell) return letGo();
    if (state.cell && cell.every((code, k) => code === state.cell[k]) && !$("tip").hidden) return undefined;
    state.cell = cell;
    return readCell(false);
  }

  const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

  function stepCell(event) {
    const last = map.codes.length - 1;
    const held = heldCell();
    if (event.key === "Escape") return letGo();
    if (!(event.key in MOVES) && event.key !== "Home" && event.key !== "End") return undefined;
    event.preventDefault();
    let [a, b] = held || [0, 1];
    if (held && event.key in MOVES) {
      const [down, right] = MOVES[event.key];
      const clamp = (place) => Math.max(0, Math.min(last, place));
      let next = [clamp(a + down), clamp(b + right)];
      if (next[0] === next[1]) next = [clamp(next[0] + down), clamp(next[1] + right)]; // over the diagonal
      if (next[0] !== next[1]) [a, b] = next;
    } else if (event.key === "Home") b = a === 0 ? 1 : 0;
    else if (event.key === "End") b = a === last ? last - 1 : last;
    state.cell = [map.codes[a], map.codes[b]];
    const box = $("heat-box");
    const x = map.left + b * map.cell;
    if (x < box.scrollLeft + map.left || x + map.cell > box.scrollLeft + box.clientWidth) box.scrollLeft = x - box.clientWidth / 2;
    const y = heat.getBoundingClientRect().top + map.top + a * map.cell;
    if (y < 120 || y + map.cell > innerHeight) scrollBy(0, y - innerHeight / 2); // 120: below the bar that stays
    return readCell(true);
  }

  // ---- plots ------------------------------------------------------------------------------------------------

  /** Round numbers that cover a range, about as many as asked for. */
  function ticks(low, high, about) {
    const raw = (high - low || 1) / about;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= raw);
    const found = [];
    for (let k = Math.floor(low / step + 1e-9); k <= Math.ceil(high / step - 1e-9); k++) found.push(k * step);
    return { found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9) + (step / power === 2.5 ? 1 : 0)) };
  }

  /** An empty plot with axes: the SVG, and the scales from data to pixels. */
  function axes(place, { x, y, xTitle, yTitle, xTicks, aspect }) {
    const width = Math.max(260, place.clientWidth);
    const height = Math.round(Math.max(210, Math.min(330, width * aspect)));
    const yAxis = ticks(y[0], y[1], 5);
    const [bottom, upper] = [yAxis.found[0], yAxis.found.at(-1)];
    const inner = { left: 40, right: width - 10, top: 24, bottom: height - 38 };
    const px = (number) => inner.left + ((number - x[0]) / (x[1] - x[0] || 1)) * (inner.right - inner.left);
    const py = (number) => inner.bottom - ((number - bottom) / (upper - bottom || 1)) * (inner.bottom - inner.top);
    const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" });
    for (const tick of yAxis.found) {
      svg.append(
        drawn("line", { class: tick === 0 ? "zero" : "grid", x1: inner.left, x2: inner.right, y1: py(tick), y2: py(tick) }),
        drawn("text", { x: inner.left - 6, y: py(tick) + 4, "text-anchor": "end" }, tick.toFixed(yAxis.digits).replace("-", "−")),
      );
    }
    for (const [number, text] of xTicks) {
      svg.append(drawn("text", { x: px(number), y: inner.bottom + 16, "text-anchor": "middle" }, text));
    }
    svg.append(
      drawn("text", { class: "title", x: inner.left - 30, y: 12 }, yTitle),
      drawn("text", { class: "title", x: (inner.left + inner.right) / 2, y: height - 5, "text-anchor": "middle" }, xTitle),
    );
    return { svg, px, py, inner };
  }

  const path = (places) => places.map(([x, y], k) => `${k ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`).join("");

  /** What the curve plot draws: one entry a line, values as shares by layer. */
  function series() {
    const of = differing() ? pair() : result();
    const found = [];
    for (const group of Object.keys(GROUPS)) {
      if (state.curves.has(group) && curveOf(of, group)) {
        const { value: values, low, high } = curveOf(of, group);
        found.push({ group, layers: of.layers, values, low, high, controls: differing() ? {} : Object.fromEntries(Object.entries(result().controls).map(([name, control]) => [name, control.groups[group]])) });
      }
    }
    const codes = shownCodes();
    if (codes.length > 1 && codes.length < result().languages.length) {
      found.push({ group: "shown", layers: of.layers, values: of.layers.map((layer) => shownMean(layer, codes)), low: null, high: null, controls: {} });
    }
    return found;
  }

  /** The result whose curves stand thinly behind the viewed one's. */
  function ghost() {
    if (differing() || DATA.results.length < 2) return null;
    return state.view === "base" ? DATA.results[state.other] : base;
  }

  function drawCurve() {
    const place = $("curve");
    const lines = series();
    const behind = ghost();
    const numbers = lines.flatMap((line) => [...line.values, ...(line.low || []), ...(line.high || []), ...Object.values(line.controls)]);
    if (behind) lines.forEach((line) => curveOf(behind, line.group) && numbers.push(...curveOf(behind, line.group).value));
    const own = layers();
    const every = Math.ceil(own.length / 9);
    const { svg, px, py, inner } = axes(place, {
      x: own.length > 1 ? [own[0], own.at(-1)] : [own[0] - 1, own[0] + 1],
      y: [Math.min(0, ...numbers.map((number) => 100 * number)), Math.max(0.1, ...numbers.map((number) => 100 * number))],
      xTitle: "layer", yTitle: differing() ? "difference (points)" : "accuracy (%)",
      xTicks: own.filter((_, at) => at % every === 0).map((layer) => [layer, String(layer)]), aspect: 0.6,
    });
    const names = [];
    const trace = (at, values) => path([...at].map((layer, k) => [px(layer), py(100 * values[k])]));
    svg.append(
      drawn("line", { class: "now", x1: px(state.layer), x2: px(state.layer), y1: inner.top, y2: inner.bottom }),
      drawn("text", { class: "now-name", x: px(state.layer), y: inner.top - 4, "text-anchor": px(state.layer) > inner.right - 40 ? "end" : "middle" }, `layer ${state.layer}`),
    );
    lines.forEach((line, number) => {
      const drawing = drawn("g", { class: `g-${line.group}`, "data-group": line.group });
      if (line.low) {
        const around = [...line.layers].map((layer, k) => [px(layer), py(100 * line.high[k])]);
        around.push(...[...line.layers].map((layer, k) => [px(layer), py(100 * line.low[k])]).reverse());
        drawing.append(drawn("path", { class: "area", d: `${path(around)}Z` }));
      }
      for (const [control, accuracy] of Object.entries(line.controls)) {
        if (accuracy === undefined) continue;
        const y = py(100 * accuracy);
        drawing.append(drawn("line", { class: `line ${control}`, x1: inner.left, x2: inner.right, y1: y, y2: y }));
        if (number === 0) names.push([control, y]);
      }
      if (behind && curveOf(behind, line.group)) {
        const kept = behind.layers.map((layer, k) => [layer, k]).filter(([layer]) => layer <= own.at(-1));
        drawing.append(drawn("path", { class: "line ghost", d: path(kept.map(([layer, k]) => [px(layer), py(100 * curveOf(behind, line.group).value[k])])) }));
      }
      drawing.append(drawn("path", { class: line.group === "shown" ? "line shown" : "line", d: trace(line.layers, line.values) }));
      const best = line.values.indexOf(Math.max(...line.values));
      const [x, y] = [px(line.layers[best]), py(100 * line.values[best])];
      drawing.append(drawn("path", { class: "best", d: `M${x},${y - 6}L${x + 6},${y}L${x},${y + 6}L${x - 6},${y}Z` }, drawn("title", {}, `layer ${line.layers[best]}`)));
      const here = line.layers.indexOf(state.layer);
      drawing.append(drawn("circle", { class: "dot", cx: px(state.layer), cy: py(100 * line.values[here]), r: 3.5 }));
      svg.append(drawing);
    });
    // Above its line, the lower of two close ones below it; away from the mark of the layer; last, over every curve.
    const [side, anchor] = px(state.layer) > inner.right - 50 ? [inner.left + 4, "start"] : [inner.right, "end"];
    const highest = Math.min(...names.map(([, y]) => y));
    for (const [control, y] of names) {
      const below = y > highest && y - highest < 15 && y + 12 < inner.bottom;
      svg.append(drawn("text", { class: "control-name", x: side, y: below ? y + 12 : y - 4, "text-anchor": anchor }, control));
    }
    const half = own.length > 1 ? (px(own[1]) - px(own[0])) / 2 : 20;
    for (const layer of own) {
      const pick = drawn("rect", { class: "pick", x: px(layer) - half, y: inner.top, width: 2 * half, height: inner.bottom - inner.top }, drawn("title", {}, `layer ${layer}`));
      pick.addEventListener("click", () => goTo(layer));
      svg.append(pick);
    }
    svg.setAttribute("aria-label", `${$("curve-title").textContent}: ${lines.map((line) => `${GROUPS[line.group] || "shown languages"} ${meanTold(line.values[line.layers.indexOf(state.layer)])}`).join(", ")} at layer ${state.layer}`);
    place.replaceChildren(svg);
    const notes = [differing() ? "Diamond: largest gain" : "Diamond: best layer", "band: 95 % interval"];
    if (!differing() && Object.keys(result().controls).length) notes.push("dashed: char control, dotted: length control, of the same directions");
    if (behind) notes.push(`thin: ${behind.name}`);
    if (lines.some((line) => line.group === "shown")) notes.push("grey: the shown languages, no interval");
    $("curve-caption").textContent = `${notes.join("; ")}. Click a layer to go there.`;
  }

  function drawGroups() {
    const of = differing() ? pair() : result();
    const controls = differing() ? [] : Object.keys(result().controls);
    $("groups").tHead.replaceChildren(headings([differing() ? "Mean over (points)" : "Mean over (%)", `Layer ${state.layer}`, "Interval", differing() ? "Largest" : "Best", ...controls]));
    const here = of.at.get(state.layer);
    const rows = Object.keys(GROUPS).filter((group) => curveOf(of, group)).map((group) => {
      const { value: values, low, high } = curveOf(of, group);
      const best = bestOf(of, group);
      const tick = element("input", { type: "checkbox", checked: state.curves.has(group), value: group });
      tick.dataset.key = group;
      tick.addEventListener("change", () => {
        if (tick.checked) state.curves.add(group);
        else state.curves.delete(group);
        render();
      });
      const name = element("th", { scope: "row" }, element("label", {}, tick, element("span", { className: `key g-${group}` }), GROUPS[group]));
      const number = element("td", {}, bare(values[here]));
      number.dataset.value = values[here];
      return element("tr", { className: state.curves.has(group) ? "" : "off" }, name, number,
        element("td", { className: "range" }, bareRange(low[here], high[here])),
        element("td", {}, `${bare(values[of.at.get(best)])} at ${best}`),
        ...controls.map((control) => element("td", {}, bare(result().controls[control].groups[group]))));
    });
    refill($("groups").tBodies[0], rows);
  }

  // ---- correlation ------------------------------------------------------------------------------------------

  /** log of the gamma function, x > 0: Stirling's series after shifting x above 10. */
  function logGamma(x) {
    let shift = 0;
    for (; x < 10; x += 1) shift -= Math.log(x);
    const q = 1 / (x * x);
    const tail = (1 / 12 - q * (1 / 360 - q * (1 / 1260 - q * (1 / 1680 - q / 1188)))) / x;
    return shift + (x - 0.5) * Math.log(x) - x + 0.5 * Math.log(2 * Math.PI) + tail;
  }

  /** Regularised incomplete beta function I_x(a, b): its continued fraction (DLMF 8.17.22) by Lentz's method. */
  function betaShare(x, a, b) {
    if (x <= 0) return 0;
    if (x >= 1) return 1;
    if (x > (a + 1) / (a + b + 2)) return 1 - betaShare(1 - x, b, a);
    const tiny = 1e-300;
    const solid = (number) => (Math.abs(number) < tiny ? tiny : number);
    let [fraction, upper, lower] = [1, 1, 0];
    for (let step = 1; step < 1000; step++) {
      const m = Math.floor(step / 2);
      const term = step % 2
        ? (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1))
        : (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
      lower = 1 / solid(1 + term * lower);
      upper = solid(1 + term / upper);
      fraction *= upper * lower;
      if (Math.abs(upper * lower - 1) < 1e-15) break;
    }
    const front = a * Math.log(x) + b * Math.log1p(-x) + logGamma(a + b) - logGamma(a) - logGamma(b);
    return Math.exp(front) / (a * fraction);
  }

  /** Pearson r, its two-sided p by the t distribution, and the least-squares line; null where r is undefined. */
  function pearson(places) {
    const n = places.length;
    if (n < 3) return null;
    const mean = (k) => places.reduce((sum, place) => sum + place[k], 0) / n;
    const [mx, my] = [mean(0), mean(1)];
    let [xx, yy, xy] = [0, 0, 0];
    for (const [x, y] of places) {
      xx += (x - mx) ** 2;
      yy += (y - my) ** 2;
      xy += (x - mx) * (y - my);
    }
    if (xx <= 1e-24 * n * mx * mx || yy <= 1e-24 * n * my * my) return null;
    const r = Math.max(-1, Math.min(1, xy / Math.sqrt(xx * yy)));
    return { n, r, p: betaShare((1 - r) * (1 + r), (n - 2) / 2, 0.5), slope: xy / xx, at: (x) => my + (xy / xx) * (x - mx) };
  }

  const scores = () => DATA.scores[state.scores];
  /** A score in percent or as a share, in four digits; the CSV has all of them. */
  const readable = (score) => String(Number(score.toPrecision(4)));

  /** Group -> [accuracy in percent, score, code] of the shown languages, at this layer. */
  function scattered() {
    const { groups, directions } = scores();
    const of = result();
    return Object.entries(groups).map(([group, values]) => {
      const codes = Object.keys(values).filter((code) => of.index.has(code) && !state.hidden.has(code) && of.means[directions]);
      const places = codes.map((code) => [100 * languageMean(of, directions, state.layer, code), values[code], code]);
      return [group, places.filter(([x]) => Number.isFinite(x))];
    });
  }

  const SHAPES = [
    (x, y) => drawn("circle", { class: "point", cx: x, cy: y, r: 4.6 }),
    (x, y) => drawn("path", { class: "point", d: `M${x},${y - 5.6}L${x + 5.4},${y + 4.2}L${x - 5.4},${y + 4.2}Z` }),
    (x, y) => drawn("rect", { class: "point", x: x - 4.2, y: y - 4.2, width: 8.4, height: 8.4 }),
    (x, y) => drawn("path", { class: "point", d: `M${x},${y - 6}L${x + 6},${y}L${x},${y + 6}L${x - 6},${y}Z` }),
  ];

  function drawScatter() {
    const all = scattered();
    const every = all.flatMap(([, places]) => places);
    const place = $("scatter");
    if (!every.length) {
      const why = result().means[scores().directions] ? "None of the shown languages has a score." : `${result().name} lacks a language of the directions that were correlated.`;
      place.replaceChildren(element("p", { className: "notice" }, why));
    } else {
      const within = (numbers) => {
        const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
        const margin = 0.06 * (high - low) || 1;
        return [low - margin, high + margin];
      };
      const xRange = within(every.map(([x]) => x));
      const xAxis = ticks(xRange[0], xRange[1], 6);
      const { svg, px, py, inner } = axes(place, {
        x: xRange, y: within(every.map(([, y]) => y)), xTitle: `accuracy of ${result().name} (%)`, yTitle: scores().metric,
        xTicks: xAxis.found.filter((tick) => tick >= xRange[0] && tick <= xRange[1]).map((tick) => [tick, tick.toFixed(xAxis.digits).replace("-", "−")]), aspect: 0.72,
      });
      const taken = every.map(([x, y]) => [px(x) - 5, py(y) - 5, 10, 10]);
      all.forEach(([group, places], number) => {
        const drawing = drawn("g", { class: `s-${number % 4}`, "data-group": group });
        const fit = pearson(places);
        if (fit) {
          const ends = [Math.min(...places.map(([x]) => x)), Math.max(...places.map(([x]) => x))];
          drawing.append(drawn("line", { class: "fit", x1: px(ends[0]), y1: py(fit.at(ends[0])), x2: px(ends[1]), y2: py(fit.at(ends[1])) }));
        }
        for (const [x, y, code] of places) {
          const mark = SHAPES[number % 4](px(x), py(y));
          mark.append(drawn("title", {}, `${DATA.languages[code].name}: accuracy ${x.toFixed(1)} %, ${scores().metric} ${readable(y)}`));
          drawing.append(mark);
        }
        svg.append(drawing);
      });
      for (const [x, y, code] of every) nameBeside(svg, px(x), py(y), DATA.languages[code].short, taken, inner);
      svg.setAttribute("aria-label", `Accuracy at layer ${state.layer} against ${scores().metric}, ${every.length} points; r and p in the table below`);
      place.replaceChildren(svg);
    }
    const rows = all.map(([group, places], number) => {
      const found = pearson(places);
      const cell = (numeric, text) => {
        const made = element("td", {}, text);
        if (numeric !== null) made.dataset.value = numeric;
        return made;
      };
      return element("tr", {}, element("th", { scope: "row" }, element("label", {}, element("span", { className: `key s-${number % 4}` }), group)),
        element("td", {}, String(places.length)),
        found ? cell(found.r, signed(found.r, 3)) : cell(null, "undefined"),
        found ? cell(found.p, pTold(found.p)) : cell(null, places.length < 3 ? "fewer than 3" : "a constant"));
    });
    $("correlations").tBodies[0].replaceChildren(...rows);
    const { label, source, directions, of } = scores();
    const [role, related] = directions.split(":");
    const named = related?.split(",").map((code) => DATA.languages[code]?.name ?? code).join(", ");
    const about = role === "all" ? "all directions that touch a language" : `directions ${role} ${named}`;
    $("scatter-caption").textContent = `Scores: ${label}${source ? ` (${source})` : ""}${of ? `, correlated in the report with ${of}` : ""}. Accuracy: mean over ${about}, among all languages of the run. r and p of the shown languages at this one layer, as if languages were independent; looking through layers for the smallest p overstates it.`;
  }

  /** Write a name at the first free side of a point, or leave it to the point's title. */
  function nameBeside(svg, x, y, name, taken, inner) {
    const [width, height] = [name.length * 6.2, 11];
    const sides = [[x + 7, y - 5.5], [x - 7 - width, y - 5.5], [x - width / 2, y - 18], [x - width / 2, y + 7]];
    const free = sides.find(([a, b]) =>
      a >= inner.left && a + width <= inner.right + 8 && b >= inner.top - 12 && b + height <= inner.bottom &&
      !taken.some(([c, d, w, h]) => a < c + w && a + width > c && b < d + h && b + height > d && !(c === x - 5 && d === y - 5)));
    if (!free) return;
    taken.push([free[0], free[1], width, height]);
    svg.append(drawn("text", { class: "point-name", x: free[0], y: free[1] + 9.5 }, name));
  }

  // ---- tables -----------------------------------------------------------------------------------------------

  function drawLanguages() {
    const codes = ordered(result().languages);
    const tokens = Object.keys(result().tokens).length > 0;
    const scored = DATA.scores.length > 0;
    const scoreOf = (code) => Object.values(scores().groups).map((values) => values[code]).find((score) => score !== undefined);
    $("languages").tHead.replaceChildren(headings(["Language", `Layer ${state.layer} (${differing() ? "points" : "%"})`, ...(scored ? [scores().metric] : []),
      ...["Own name", "Code", "Family", "Script", "Resources"].map((name) => element("th", { scope: "col", className: "words" }, name)), ...(tokens ? ["Tokens a sentence"] : [])]));
    const rows = codes.map((code) => {
      const language = DATA.languages[code];
      const tick = element("input", { type: "checkbox", checked: !state.hidden.has(code), value: code });
      tick.dataset.key = code;
      tick.addEventListener("change", () => {
        if (tick.checked) state.hidden.delete(code);
        else state.hidden.add(code);
        render();
      });
      const words = (text) => element("td", { className: "words" }, text || "–");
      const number = element("td", {}, bare(languageValue(state.layer, code)));
      number.dataset.value = languageValue(state.layer, code);
      const score = scored ? scoreOf(code) : undefined;
      return element("tr", { className: state.hidden.has(code) ? "off" : "" },
        element("th", { scope: "row" }, element("label", {}, tick, language.name)),
        number, ...(scored ? [element("td", {}, score === undefined ? "–" : readable(score))] : []),
        element("td", { className: "words" }, autonym(code)), words(code), words(language.family), words(language.script), words(language.level),
        ...(tokens ? [element("td", {}, code in result().tokens ? result().tokens[code].toFixed(1) : "–")] : []));
    });
    refill($("languages").tBodies[0], rows);
    const shown = codes.filter((code) => !state.hidden.has(code)).length;
    $("shown-count").textContent = `${shown} of ${codes.length} shown`;
  }

  function drawGlance() {
    const controls = [...new Set(DATA.results.flatMap((each) => Object.keys(each.controls)))];
    $("glance").tHead.replaceChildren(headings(["All directions", "Sentences", "Languages", "Chance", "Best layer", `Layer ${state.layer}`, "Aggregate", ...controls]));
    const named = (name) => element("th", { scope: "row", dir: "auto", className: "words", title: name }, name);
    const rows = DATA.results.map((each) => {
      const values = each.groups.mean.value;
      const best = bestOf(each, "mean");
      const here = each.at.get(state.layer);
      return element("tr", {}, named(each.name),
        element("td", {}, each.rows.toLocaleString("en")), element("td", {}, String(each.languages.length)), element("td", {}, `${(100 / each.rows).toPrecision(2)} %`),
        element("td", {}, `${percent(values[each.at.get(best)])} at ${best}`),
        element("td", {}, here === undefined ? "–" : percent(values[here])), element("td", {}, each.aggregate === null ? "–" : percent(each.aggregate)),
        ...controls.map((control) => element("td", {}, each.controls[control] ? percent(each.controls[control].groups.mean) : "–")));
    });
    $("glance").tBodies[0].replaceChildren(...rows);
  }

  // ---- downloads --------------------------------------------------------------------------------------------

  function download(what, header, rows) {
    const quoted = (entry) => (/[",\n\r]/.test(String(entry)) ? `"${String(entry).replaceAll('"', '""')}"` : String(entry));
    const text = [header, ...rows].map((line) => line.map((entry) => quoted(entry ?? "")).join(",")).join("\n");
    const link = element("a", {
      href: URL.createObjectURL(new Blob([`${text}\n`], { type: "text/csv;charset=utf-8" })),
      download: `${nameOf().replace(/[^\w.-]+/g, "_")}-${what}.csv`,
    });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  function downloadHeat() {
    const codes = shownCodes();
    const names = Object.keys(result().controls);
    const numbers = differing() ? ["base", "other", "difference"] : ["correct", "accuracy"];
    const rows = codes.flatMap((src) => codes.filter((tgt) => tgt !== src).map((tgt) => {
      const found = direction(src, tgt);
      const own = differing() ? [found.base, found.other, found.value] : [found.correct, found.value];
      return [nameOf(), state.layer, src, tgt, found.n, ...own, found.low, found.high, ...names.map((name) => found.controls[name])];
    }));
    download(`layer${state.layer}`, ["result", "layer", "src", "tgt", "n", ...numbers, "low", "high", ...names], rows);
  }

  function downloadCurve() {
    const controls = differing() ? [] : Object.keys(result().controls);
    const rows = series().flatMap((line) => [...line.layers].map((layer, k) =>
      [nameOf(), line.group, layer, line.values[k], line.low?.[k], line.high?.[k], ...controls.map((name) => line.controls[name])]));
    download("layers", ["result", "group", "layer", differing() ? "difference" : "accuracy", "low", "high", ...controls], rows);
  }

  function downloadScatter() {
    const rows = scattered().flatMap(([group, places]) => places.map(([x, y, code]) => [result().name, scores().label, group, state.layer, code, x / 100, y]));
    download(`scores-layer${state.layer}`, ["result", "scores", "group", "layer", "language", "accuracy", "score"], rows);
  }

  function downloadLanguages() {
    const rows = ordered(result().languages).filter((code) => !state.hidden.has(code)).map((code) => {
      const language = DATA.languages[code];
      return [nameOf(), state.layer, code, language.name, language.autonym, language.family, language.script, language.level, result().tokens[code], languageValue(state.layer, code)];
    });
    download(`languages-layer${state.layer}`, ["result", "layer", "language", "name", "autonym", "family", "script", "level", "tokens_per_sentence", differing() ? "difference" : "accuracy"], rows);
  }

  // ---- what the reader does ---------------------------------------------------------------------------------

  function goTo(layer) {
    state.layer = layer;
    render();
  }

  /** The given layer where the viewed result has it, else the nearest it has. */
  const nearest = (layer) => layers().reduce((best, each) => (Math.abs(each - layer) < Math.abs(best - layer) ? each : best));

  /** The languages, of all results, that a choice names. */
  function picked(choice) {
    const all = Object.keys(DATA.languages);
    const [kind, name] = choice.split(/:(.*)/s);
    return {
      all: () => all,
      none: () => [],
      high: () => all.filter((code) => DATA.languages[code].level === "high"),
      low: () => all.filter((code) => DATA.languages[code].level === "low"),
      script: () => all.filter((code) => DATA.languages[code].script === name),
      family: () => all.filter((code) => DATA.languages[code].family === name),
      set: () => DATA.sets[name],
      scores: () => DATA.scores.flatMap((each) => Object.keys(each.groups[name] || {})),
    }[kind]();
  }

  function pick(choice) {
    const [all, chosen] = [Object.keys(DATA.languages), picked(choice)];
    state.hidden = new Set(all.filter((code) => !chosen.includes(code)));
    render();
  }

  function render() {
    const refused = pair()?.refused;
    const radios = Object.fromEntries([...document.querySelectorAll("input[name=view]")].map((radio) => [radio.value, radio]));
    radios.difference.disabled = Boolean(refused);
    if (refused && differing()) state.view = "other";
    radios[state.view].checked = true;
    $("refused").hidden = !refused;
    $("refused").textContent = refused ?? "";
    state.layer = nearest(state.layer);
    const own = layers();
    const at = own.indexOf(state.layer);
    const slider = $("layer");
    slider.max = own.length - 1;
    slider.value = at;
    slider.disabled = own.length < 2;
    const mean = curveOf(differing() ? pair() : result(), "mean").value[at];
    slider.setAttribute("aria-valuetext", `layer ${state.layer}, mean ${meanTold(mean)}`);
    $("layer-number").textContent = state.layer;
    document.querySelectorAll(".at-layer").forEach((place) => { place.textContent = `layer ${state.layer}`; });
    $("base-name").textContent = base.name;
    $("other-name").textContent = DATA.results[state.other]?.name ?? "";
    $("curve-title").textContent = differing() ? "Difference by layer" : "Accuracy by layer";
    drawCurve();
    drawGroups();
    if (DATA.scores.length) drawScatter();
    fillPick();
    drawLanguages();
    drawGlance();
    drawHeat();
    if (state.cell && !$("tip").hidden) readCell(false);
  }

  function fillChoices() {
    const options = (select, entries) => select.append(...entries.map(([entry, text]) => element("option", { value: entry }, text)));
    options($("other"), DATA.results.slice(1).map((each, at) => [at + 1, each.name]));
    if (DATA.scores.length) options($("scores"), DATA.scores.map((each, at) => [at, each.label]));
  }

  /** Offer the scripts, families, sets and score groups that pick some, but not all, of the viewed result's languages. */
  function fillPick() {
    const codes = result().languages;
    const distinct = (key) => [...new Set(codes.map((code) => DATA.languages[code][key]).filter(Boolean))].sort();
    const kinds = [["Script", "script", distinct("script")], ["Family", "family", distinct("family")], ["Set", "set", Object.keys(DATA.sets)],
      ["Scores", "scores", [...new Set(DATA.scores.flatMap((each) => Object.keys(each.groups)))]]];
    const groups = kinds.map(([label, kind, names]) => {
      const offered = names.map((name) => [`${kind}:${name}`, name]).filter(([choice]) => {
        const count = picked(choice).filter((code) => codes.includes(code)).length;
        return count > 0 && count < codes.length;
      });
      return element("optgroup", { label }, ...offered.map(([value, name]) => element("option", { value }, name)));
    });
    const held = $("pick").value;
    $("pick").replaceChildren($("pick").options[0], ...groups.filter((group) => group.children.length));
    $("pick").value = held;
    if ($("pick").selectedIndex < 0) $("pick").value = "";
  }

  function listen() {
    $("layer").addEventListener("input", (event) => goTo(layers()[Number(event.target.value)]));
    $("to-best").addEventListener("click", () => goTo(bestOf(differing() ? pair() : result(), "mean")));
    document.querySelectorAll("input[name=view]").forEach((radio) => radio.addEventListener("change", () => { state.view = radio.value; render(); }));
    $("other").addEventListener("change", (event) => { state.other = Number(event.target.value); if (state.view === "base") state.view = "other"; render(); });
    $("sort").addEventListener("change", (event) => { state.sort = event.target.value; render(); });
    $("scale").addEventListener("change", (event) => { state.scale = event.target.value; render(); });
    $("scores")?.addEventListener("change", (event) => { state.scores = Number(event.target.value); render(); });
    document.querySelectorAll("[data-pick]").forEach((button) => button.addEventListener("click", () => { $("pick").value = ""; pick(button.dataset.pick); }));
    $("pick").addEventListener("change", (event) => event.target.value && pick(event.target.value));
    heat.addEventListener("pointermove", pointAt);
    heat.addEventListener("pointerdown", pointAt);
    heat.addEventListener("pointerleave", (event) => event.pointerType === "touch" || letGo());
    heat.addEventListener("keydown", stepCell);
    heat.addEventListener("focus", () => { if (!state.cell && heat.matches(":focus-visible") && map.codes.length > 1) { state.cell = map.codes.slice(0, 2); readCell(true); } });
    heat.addEventListener("blur", letGo);
    addEventListener("scroll", () => { const held = heldCell(); if (held && !$("tip").hidden) placeTip(held); }, { passive: true, capture: true });
    $("csv-heat").addEventListener("click", downloadHeat);
    $("csv-curve").addEventListener("click", downloadCurve);
    $("csv-scatter")?.addEventListener("click", downloadScatter);
    $("csv-langs").addEventListener("click", downloadLanguages);
    for (const [id, what] of [["csv-heat", "the shown directions"], ["csv-curve", "the shown curves"], ["csv-scatter", "the shown points"], ["csv-langs", "the shown languages"]]) {
      $(id)?.setAttribute("aria-label", `Download ${what} as CSV`);
      $(id)?.setAttribute("title", `Download ${what} as CSV`);
    }
    const named = () => { $("theme").textContent = isDark() ? "Light" : "Dark"; };
    $("theme").addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; named(); render(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { named(); render(); });
    named();
    let width = innerWidth;
    addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; render(); } });
    addEventListener("beforeprint", render);
  }

  fillChoices();
  listen();
  goTo(base.at.has(DATA.chosen) ? DATA.chosen : bestOf(base, "mean"));
})();
