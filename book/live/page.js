/* What all live pages share: how a page begins, where its model comes from, controls, a chart. */

import { Qwen3, Tokenizer, Trouble, readSafetensors } from "./qwen3.js";

/** An element: node("p", {class: "note", onclick}, "text", child). */
export function node(tag, attributes = {}, ...children) {
  const made = tag.startsWith("svg:")
    ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") made[name] = value;
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null));
  return made;
}

let named = 0;
/** A name for an element that nothing else on the page has. */
export const fresh = (stem) => `${stem}-${++named}`;

/** Run a page: `main(app)` fills the place of what stands there without JavaScript. Whatever goes wrong, then
    or later, is said on the page in one sentence. */
export async function begin(main) {
  const app = document.getElementById("app");
  addEventListener("error", (event) => complain(event.error ?? event.message));
  addEventListener("unhandledrejection", (event) => complain(event.reason));
  try {
    await main(app);
    document.body.dataset.ready = "yes";
  } catch (error) {
    complain(error);
  }
}

/** Say on the page what went wrong; what nobody foresaw goes to the console as well. */
export function complain(error) {
  const box = document.getElementById("trouble");
  box.textContent = error instanceof Trouble ? error.message
    : `Something on this page went wrong (${error?.message ?? error}). Loading it again may help.`;
  box.hidden = false;
  document.body.dataset.ready = "trouble";
  if (!(error instanceof Trouble)) console.error(error);
}

/** Take back what was said by `complain`. */
export function calm() {
  document.getElementById("trouble").hidden = true;
  document.body.dataset.ready = "yes";
}

/** Run what a control asks for; a Trouble is said on the page, and gone when the next thing works. */
export async function attempt(work) {
  try {
    await work();
    calm();
  } catch (error) {
    complain(error);
  }
}

// -- the model -------------------------------------------------------------------------------------------

const SOURCES = "../../qwen3_ref/data/nano"; // where the checkpoints lie in the repository

/** A script of the built page, once; resolves when it has run. */
export function script(path) {
  return new Promise((resolve, reject) => {
    const lost = () => reject(new Trouble(`The file ${path} could not be read. Is the folder complete?`));
    document.head.append(node("script", { src: path, onload: resolve, onerror: lost }));
  });
}

/** The files of a checkpoint as they are shipped: {config, tokenizer, weights}. In the repository they are
    fetched; a built page, which may have been opened from disk, finds them inside a script. */
async function files(name) {
  if (globalThis.QWEN3_BUILT) {
    if (!globalThis.QWEN3_FILES?.[name]) await script(`data/${name}.js`);
    const found = globalThis.QWEN3_FILES?.[name];
    if (!found)
      throw new Trouble(`data/${name}.js is not whole, so the model is missing. Load the page again, or get ` +
                        `the folder anew.`);
    const text = atob(found.weights), bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return { config: found.config, tokenizer: found.tokenizer, weights: bytes.buffer };
  }
  const get = async (file) => {
    let answer = null;
    try { answer = await fetch(`${SOURCES}/${name}/${file}`); } catch { /* said below */ }
    if (!answer?.ok)
      throw new Trouble(`${name}/${file} could not be loaded. Serve the repository's top folder, or build the ` +
                        `pages with python book/live/build.py.`);
    return answer;
  };
  const json = async (file) => {
    const answer = await get(file);
    return answer.json().catch(() => { throw new Trouble(`${name}/${file} is not whole: load it again.`); });
  };
  const [config, tokenizer, weights] = await Promise.all(
    [json("config.json"), json("tokenizer.json"), get("model.safetensors").then((a) => a.arrayBuffer())]);
  return { config, tokenizer, weights };
}

const loaded = new Map();
/** {model, tokenizer} of a checkpoint of the nano family, by its name; loaded once. */
export function checkpoint(name) {
  if (!loaded.has(name)) {
    loaded.set(name, files(name).then(({ config, tokenizer, weights }) => ({
      model: new Qwen3(config, readSafetensors(weights)), tokenizer: new Tokenizer(tokenizer) })));
    loaded.get(name).catch(() => loaded.delete(name));
  }
  return loaded.get(name);
}

/** What to tell a reader whose text the vocabulary only spells byte by byte; "" if it does not. */
export function strange(tokenizer, text) {
  const odd = new Set();
  for (const char of text.normalize("NFC")) {
    const bytes = new TextEncoder().encode(char).length;
    if (bytes > 1 && tokenizer.encode(char).length === bytes) odd.add(char);
  }
  if (!odd.size) return "";
  const some = [...odd].slice(0, 6).join(" ");
  return `The nano's vocabulary of ${tokenizer.names.length.toLocaleString("en")} has no token for ${some}: it ` +
    `spells ${odd.size > 1 ? "them" : "it"} byte by byte, and has hardly ever read such bytes. Expect nonsense.`;
}

// -- controls --------------------------------------------------------------------------------------------

/** A labelled slider with its value in words. Returns {box, input, get, set}. */
export function slider(label, { min, max, step = 1, value, say = String, onchange }) {
  const id = fresh("slider"), out = node("output", { for: id });
  const input = node("input", { type: "range", id, min, max, step, oninput: () => { tell(); onchange?.(get()); } });
  const get = () => Number(input.value);
  const tell = () => {
    out.textContent = say(get());
    input.setAttribute("aria-valuetext", say(get()));
  };
  const set = (number) => { input.value = String(number); tell(); };
  set(value);
  return { box: node("div", { class: "field slider" }, node("label", { for: id }, label), out, input),
           input, get, set };
}

/** A labelled choice of [value, words]. Returns {box, input, get}. */
export function choice(label, options, { value, onchange } = {}) {
  const id = fresh("choice");
  const input = node("select", { id, onchange: () => onchange?.(input.value) },
    options.map(([key, words]) => node("option", { value: key }, words)));
  if (value !== undefined) input.value = value;
  return { box: node("div", { class: "field" }, node("label", { for: id }, label), input),
           input, get: () => input.value };
}

/** A labelled text field of some rows. Returns {box, input}. */
export function textField(label, { value = "", rows = 3, oninput } = {}) {
  const id = fresh("text");
  const input = node("textarea", { id, rows, spellcheck: "false", autocapitalize: "off", value, oninput });
  return { box: node("div", { class: "field wide" }, node("label", { for: id }, label), input), input };
}

export const button = (words, onclick, more = {}) => node("button", { type: "button", onclick, ...more }, words);

/** Make a row of buttons one stop of the Tab key; the arrow keys, Home and End move inside. */
export function roving(row, at = 0) {
  const buttons = Array.from(row.querySelectorAll("button"));
  buttons.forEach((one, i) => { one.tabIndex = i === at ? 0 : -1; });
  buttons.forEach((one) => one.addEventListener("focus", () => {
    for (const other of buttons) other.tabIndex = other === one ? 0 : -1;
  }));
  row.onkeydown = (event) => {
    const now = buttons.indexOf(document.activeElement);
    const next = { ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now - 1, ArrowUp: now - 1, Home: 0,
                   End: buttons.length - 1 }[event.key];
    if (now < 0 || next === undefined || !buttons[next]) return;
    event.preventDefault();
    buttons[next].focus();
  };
}

/** Let the browser paint, if it has waited for longer than a frame. */
let painted = 0;
export async function breathe() {
  if (performance.now() - painted < 24) return;
  await new Promise((resolve) => setTimeout(resolve));
  painted = performance.now();
}

// -- tokens and numbers ----------------------------------------------------------------------------------

/** A token's text, with what cannot be seen made visible. */
export function visible(tokenizer, id) {
  const bytes = tokenizer.bytes(id), text = tokenizer.decode([id]);
  if (text.includes("\ufffd")) return bytes.map((byte) => `‹${byte.toString(16).padStart(2, "0")}›`).join("");
  return text.replaceAll(" ", "·").replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll("\r", "␍");
}

export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}%`;

/** The share of successes with Wilson's interval of 95%: {share, low, high}. */
export function interval(right, n) {
  const z = 1.959964, p = right / n, base = 1 + z * z / n;
  const middle = (p + z * z / (2 * n)) / base;
  const half = z * Math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / base;
  return { share: p, low: Math.max(0, middle - half), high: Math.min(1, middle + half) };
}

/** A chart of lines in SVG. `series`: [{name, points: [[x, y, low?, high?]], dashed?}]; ticks: [[value, words]].
    It is decoration to a screen reader, which has `label` and whatever table stands beside it. */
export function chart({ label, x, y, xTicks, yTicks, xName, yName, series }) {
  const W = Math.min(640, Math.max(300, document.documentElement.clientWidth - 40)); // letters keep their size
  const [H, left, bottom, top, right] = [W < 480 ? 260 : 320, 66, 46, 12, 26];
  const px = (value) => left + (value - x[0]) / (x[1] - x[0]) * (W - left - right);
  const py = (value) => H - bottom - (value - y[0]) / (y[1] - y[0]) * (H - bottom - top);
  const line = (points) => points.map((p, i) => `${i ? "L" : "M"}${px(p[0]).toFixed(1)} ${py(p[1]).toFixed(1)}`).join("");
  const words = (at, text, more = {}) => node("svg:text", { x: at[0], y: at[1], ...more }, text);
  const drawn = node("svg:svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label, class: "chart" });
  for (const [value, text] of yTicks) {
    drawn.append(node("svg:line", { x1: left, x2: W - right, y1: py(value), y2: py(value), class: "grid" }),
      words([left - 8, py(value) + 5], text, { "text-anchor": "end" }));
  }
  let free = Infinity; // from the right: a label that would run into the next one is left out
  for (const [value, text] of [...xTicks].reverse()) {
    drawn.append(node("svg:line", { x1: px(value), x2: px(value), y1: H - bottom, y2: H - bottom + 5, class: "axis" }));
    const half = 4.5 * text.length;
    if (px(value) + half > free) continue;
    free = px(value) - half - 3;
    drawn.append(words([px(value), H - bottom + 20], text, { "text-anchor": "middle" }));
  }
  drawn.append(node("svg:line", { x1: left, x2: W - right, y1: H - bottom, y2: H - bottom, class: "axis" }),
    words([(left + W - right) / 2, H - 6], xName, { "text-anchor": "middle", class: "name" }),
    words([14, (top + H - bottom) / 2], yName, { "text-anchor": "middle", class: "name",
      transform: `rotate(-90 14 ${(top + H - bottom) / 2})` }));
  series.forEach(({ points, dashed, name, tone = 0 }) => {
    if (!points.length) return;
    const banded = points.filter((p) => p.length > 2);
    if (banded.length > 1) {
      const up = banded.map((p) => [p[0], p[3]]), down = banded.map((p) => [p[0], p[2]]).reverse();
      drawn.append(node("svg:path", { d: `${line([...up, ...down])}Z`, class: `band tone${tone}` }));
    }
    drawn.append(node("svg:path", { d: line(points), class: `line tone${tone}${dashed ? " dashed" : ""}` }));
    if (!dashed) for (const p of points)
      drawn.append(node("svg:circle", { cx: px(p[0]), cy: py(p[1]), r: 4, class: `dot tone${tone}` }));
    if (name) {
      const end = points[points.length - 1];
      drawn.append(words([Math.min(px(end[0]), W - right - 4), py(end[1]) - 10], name,
        { "text-anchor": "end", class: `said tone${tone}` }));
    }
  });
  return drawn;
}

/** A table from rows of cells, the first row and the first cell of each being headings. Its caption stays where it
    is when a wide one is scrolled. */
export function table(caption, [head, ...rows]) {
  const id = fresh("caption");
  return node("div", {}, node("p", { class: "note", id }, caption),
    node("div", { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": id },
      node("table", { "aria-labelledby": id },
        node("thead", {}, node("tr", {}, head.map((cell) => node("th", { scope: "col" }, cell)))),
        node("tbody", {}, rows.map(([first, ...cells]) =>
          node("tr", {}, node("th", { scope: "row" }, first), cells.map((cell) => node("td", {}, cell))))))));
}
