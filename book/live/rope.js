/* Page 4: dials that turn with the position, frequencies that bend with the factor, retrieval that survives. */

import { frequencies } from "./qwen3.js";
import { DEPTHS, lookUp, makeList } from "./lookup.js";
import { attempt, begin, button, chart, checkpoint, choice, interval, node, percent, slider,
         table } from "./page.js";

const METHODS = {
  plain: ["as trained", () => ({})],
  linear: ["position interpolation", (factor) => ({ rope_scaling: { rope_type: "linear", factor } })],
  ntk: ["NTK-aware", (factor, c) => ({ rope_theta: c.rope_theta * factor ** (c.head_dim / (c.head_dim - 2)) })],
  yarn: ["YaRN", (factor, c) => ({ rope_scaling: { rope_type: "yarn", factor,
    original_max_position_embeddings: c.max_position_embeddings } })],
};

begin(async (app) => {
  const { model, tokenizer } = await checkpoint("qwen3-nano-base");
  const c = model.config, half = c.head_dim / 2, trained = c.max_position_embeddings;
  const names = Object.entries(METHODS).map(([key, [words]]) => [key, words]);

  /** What the method changes in config.json; a factor of 1 changes nothing. */
  const changes = () => factor.get() === 1 ? {} : METHODS[method.get()][1](factor.get(), c);
  const room = () => ({ ...changes(), max_position_embeddings: 1e9 }); // plain, too, is to be read too far

  // -- dials -------------------------------------------------------------------------------------------
  const position = slider("Position of the token", { min: 0, max: 4096, value: 1500, onchange: turn,
    say: (p) => p.toLocaleString("en") });
  const method = choice("Method", names, { value: "yarn", onchange: bend });
  const factor = slider("Factor", { min: 1, max: 8, step: 0.5, value: 4, onchange: bend, say: (f) => `${f} times` });
  const C = 44, dials = node("div", { class: "dials", role: "img" });
  const hands = [];
  for (let j = 0; j < half; j++) {
    const before = node("svg:line", { x1: C, y1: C, x2: C, y2: 10, class: "hand before" });
    const now = node("svg:line", { x1: C, y1: C, x2: C, y2: 8, class: "hand now" });
    hands.push([before, now]);
    dials.append(node("svg:svg", { viewBox: `0 0 ${2 * C} ${2 * C + 16}` },
      node("svg:circle", { cx: C, cy: C, r: C - 3 }), before, now,
      node("svg:text", { x: C, y: 2 * C + 12, "text-anchor": "middle" }, `pair ${j}`)));
  }
  const told = node("p", { id: "told", "aria-live": "polite" });
  const waves = node("div");

  function turn() {
    const before = frequencies(c).turns, now = frequencies({ ...c, ...changes() }).turns, p = position.get();
    hands.forEach(([first, second], j) => {
      for (const [hand, turns] of [[first, before], [second, now]])
        hand.setAttribute("transform", `rotate(${(p * turns[j] * 180 / Math.PI % 360).toFixed(2)} ${C} ${C})`);
    });
    const round = (turns) => p * turns / (2 * Math.PI);
    const words = `At position ${p.toLocaleString("en")} pair 0 has turned ${round(now[0]).toFixed(1)} times, pair ` +
      `${half / 2} ${round(now[half / 2]).toFixed(2)} times (${round(before[half / 2]).toFixed(2)} as trained), the last ` +
      `${round(now[half - 1]).toFixed(4)} of a turn (${round(before[half - 1]).toFixed(4)}).`;
    told.textContent = words;
    dials.setAttribute("aria-label", words);
  }

  function bend() {
    turn();
    const wave = (config) => Array.from(frequencies(config).turns, (t, j) => [j, Math.log10(2 * Math.PI / t)]);
    const before = wave(c), now = wave({ ...c, ...changes() });
    const kept = now.filter(([j, w]) => Math.abs(w - before[j][1]) < 1e-9).length;
    waves.replaceChildren(chart({
      label: `Wavelength of each pair, as trained and by ${METHODS[method.get()][0]}: ${kept} of ${half} pairs are kept`,
      x: [0, half - 1], y: [0.5, 8], xName: "pair", yName: "tokens for one turn",
      xTicks: [0, 8, 16, 24, 31].map((j) => [j, String(j)]),
      yTicks: [1, 2, 3, 4, 5, 6, 7].map((e) => [e, e < 3 ? String(10 ** e) : `10${"³⁴⁵⁶⁷"[e - 3]}`]),
      series: [{ points: before, tone: 0, name: "" }, { points: now, tone: 1 },
        { points: [[0, Math.log10(trained)], [half - 1, Math.log10(trained)]], dashed: true, tone: 2,
          name: `trained length, ${trained.toLocaleString("en")}` }],
    }), node("p", { class: "note" }, node("span", { class: "tone0" }, "● as trained "),
      node("span", { class: "tone1" }, `● ${METHODS[method.get()][0]}, factor ${factor.get()} `),
      `${kept} of ${half} pairs turn as they did.`));
  }

  // -- retrieval ---------------------------------------------------------------------------------------
  const long = choice("Length of the list", [512, 1024, 1536, 2048, 3072].map((n) =>
    [String(n), `${n.toLocaleString("en")} tokens${n > trained ? `, ${n / trained} times what was trained` : ""}`]),
    { value: "2048" });
  const ask = button("Read it and ask", () => attempt(retrieve), { class: "main", id: "ask" });
  const progress = node("progress", { max: 1, value: 0, "aria-label": "Read so far" });
  const marks = node("div", { class: "depths" }), result = node("p", { id: "result", "aria-live": "polite" });
  const rows = node("div"), kept = new Map();
  let running = false, lists = 0;

  async function retrieve() {
    if (running) {
      running = false;
      return;
    }
    running = true;
    ask.textContent = "Stop";
    const length = Number(long.get()), words = factor.get() === 1 || method.get() === "plain" ? "as trained"
      : `${METHODS[method.get()][0]}, factor ${factor.get()}`;
    const key = `${words}|${length}`, one = kept.get(key) ?? { right: 0, n: 0, lists: 0 };
    const list = makeList(tokenizer, length, 1 + one.lists); // every method gets the same lists
    const right = await lookUp(model.with(room()), tokenizer, list, (share, found) => {
      progress.value = share;
      result.textContent = share < 1 ? `Reading ${list.lines.length} lines: ${percent(share)}` : `Asking: ${found.length}`;
      draw(found);
      return running;
    });
    running = false;
    ask.textContent = "Read another and ask";
    if (!right) {
      result.textContent = "Stopped.";
      return;
    }
    lists++;
    kept.set(key, { right: one.right + right.filter(Boolean).length, n: one.n + right.length, lists: one.lists + 1 });
    result.textContent = `${right.filter(Boolean).length} of ${right.length} values found, ${words}, in a list of ` +
      `${length.toLocaleString("en")} tokens.`;
    rows.replaceChildren(table("Your runs, with 95% intervals; the same lists for every method", [
      ["method", "tokens", "lists", "found", "share", "95%"],
      ...[...kept].map(([name, { right: hits, n, lists: read }]) => {
        const { share, low, high } = interval(hits, n), [how, size] = name.split("|");
        return [how, Number(size).toLocaleString("en"), String(read), `${hits} of ${n}`, percent(share),
                `${percent(low)} to ${percent(high)}`];
      })]));
  }

  function draw(found) {
    marks.replaceChildren(...DEPTHS.map((depth, d) => node("div", {}, node("span", {}, percent(depth)),
      [0, 1, 2].map((n) => {
        const hit = found[3 * d + n], words = hit === undefined ? "not asked yet" : hit ? "found" : "missed";
        return node("span", { class: `hit ${words.split(" ")[0]}`, role: "img", "aria-label": words },
          hit === undefined ? "·" : hit ? "✓" : "✗");
      }))));
  }

  app.replaceChildren(
    node("div", { class: "controls" }, position.box, method.box, factor.box),
    node("p", { class: "note" }, "Each dial is a pair of channels. Thin hand: as trained. Thick hand: by the method chosen. A " +
      "query and a key agree when their hands stand alike; only the distance between them counts."),
    dials, told,
    node("h2", {}, "How long is a turn?"), waves,
    node("h2", {}, "Does it still find things?"),
    node("p", {}, `The base model was trained on texts of ${trained.toLocaleString("en")} tokens. Here it reads a list of keys ` +
      "and values and is asked for eighteen of them, at six depths. Nothing is trained: only a number or three of config.json change."),
    node("div", { class: "controls" }, long.box), node("div", { class: "row" }, ask, progress), result,
    node("p", { class: "note" }, "By depth in the list, three questions each:"), marks, rows);
  bend();
  draw([]);
});
