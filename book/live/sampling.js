/* Page 7: what temperature, top-k, top-p and min-p do to the logits of a model that runs here. */

import { Cache, distribution, draw, encodeChat, randomNumbers, Trouble } from "./qwen3.js";
import { PROBLEMS } from "./problems.js";
import { attempt, begin, button, checkpoint, choice, node, percent, slider, strange, textField,
         visible } from "./page.js";

const PRESETS = {
  greedy: ["Greedy", { temperature: 0, top_k: 0, top_p: 1, min_p: 0 }],
  plain: ["As the model says", { temperature: 1, top_k: 0, top_p: 1, min_p: 0 }],
  thinking: ["Official, thinking", { temperature: 0.6, top_k: 20, top_p: 0.95, min_p: 0 }],
  quick: ["Official, not thinking", { temperature: 0.7, top_k: 20, top_p: 0.8, min_p: 0 }],
  wild: ["Hot, held by min-p", { temperature: 1.6, top_k: 0, top_p: 1, min_p: 0.1 }],
};
const SHOWN = 14; // bars
const BEGINNINGS = {
  chat: () => PROBLEMS.find((problem) => problem.family === "translation").prompt,
  quick: () => PROBLEMS.find((problem) => problem.family === "arithmetic").prompt,
  text: () => "Return the number of",
};

begin(async (app) => {
  const { model, tokenizer } = await checkpoint("qwen3-nano");
  let prompt = [], said = [], cache = null, logits = null, seed = 1, random = randomNumbers(seed);

  const mode = choice("The model is given", [["chat", "a problem, and thinks"],
    ["quick", "a problem, and answers at once"], ["text", "plain text to go on with"]],
    { value: "quick", onchange: () => { text.input.value = BEGINNINGS[mode.get()](); attempt(restart); } });
  const text = textField("Its text", { rows: 3, oninput: () => attempt(restart) });
  const remark = node("p", { class: "note", "aria-live": "polite" });
  const dials = {
    temperature: slider("Temperature", { min: 0, max: 2, step: 0.05, value: 1, onchange: show,
      say: (t) => t === 0 ? "0: greedy" : t.toFixed(2) }),
    top_k: slider("top-k", { min: 0, max: 50, value: 0, onchange: show, say: (k) => k === 0 ? "off" : `${k} tokens` }),
    top_p: slider("top-p", { min: 0.05, max: 1, step: 0.05, value: 1, onchange: show,
      say: (p) => p === 1 ? "off" : p.toFixed(2) }),
    min_p: slider("min-p", { min: 0, max: 0.5, step: 0.01, value: 0, onchange: show,
      say: (p) => p === 0 ? "off" : p.toFixed(2) }),
  };
  const sampling = () => Object.fromEntries(Object.entries(dials).map(([name, dial]) => [name, dial.get()]));
  const presets = node("div", { class: "row", role: "group", "aria-label": "Settings" },
    Object.values(PRESETS).map(([words, setting]) => button(words, () => {
      for (const [name, value] of Object.entries(setting)) dials[name].set(value);
      show();
    })));
  const written = node("div", { class: "tokens", role: "group", "aria-label": "The text so far" });
  const bars = node("ol", { class: "bars", "aria-label": "The most probable next tokens" });
  const summary = node("p", { id: "summary" });
  const seeded = node("input", { type: "number", id: "seed", min: 0, max: 999999, value: "1",
    oninput: () => { seed = Number(seeded.value) || 0; attempt(restart); } });

  async function restart() {
    if (!text.input.value) throw new Trouble("There is no text yet: write some.");
    remark.textContent = strange(tokenizer, text.input.value);
    prompt = mode.get() === "text" ? tokenizer.encode(text.input.value)
      : encodeChat(tokenizer, [{ role: "user", content: text.input.value }], { thinking: mode.get() === "chat" });
    if (prompt.length > 600) throw new Trouble(`The text has ${prompt.length} tokens; the page takes 600.`);
    said = [];
    random = randomNumbers(seed);
    cache = new Cache(model.config);
    logits = model.forward(prompt, cache);
    show();
  }

  function take(id) {
    if (tokenizer.stopIds.has(said.at(-1)))
      throw new Trouble("The reply has come to its end; take a token back, or start again.");
    if (prompt.length + said.length + 1 >= model.config.max_position_embeddings)
      throw new Trouble("The model's context is full; start again.");
    said.push(id);
    logits = model.forward([id], cache);
  }

  function back() {
    if (!said.length) return;
    said.pop();
    const ids = [...prompt, ...said];
    cache.length = ids.length - 1; // the last id is read again, for its logits
    logits = model.forward(ids.slice(-1), cache);
    show();
  }

  const write = (count) => attempt(() => {
    for (let n = 0; n < count && !tokenizer.stopIds.has(said.at(-1)); n++)
      take(draw(distribution(logits, sampling(), tokenizer.names.length), random()));
    show();
  });

  function show() {
    const absent = tokenizer.names.length;
    const before = distribution(logits, { temperature: 1 }, absent), after = distribution(logits, sampling(), absent);
    const best = Array.from(before.keys()).sort((a, b) => before[b] - before[a]).slice(0, SHOWN);
    const left = after.reduce((count, p) => count + (p > 0), 0);
    const longest = Math.max(...best.map((id) => Math.max(before[id], after[id]))); // the longest bar is full
    const bits = (p) => p.reduce((sum, x) => sum - (x > 0 ? x * Math.log2(x) : 0), 0);
    bars.replaceChildren(...best.map((id) => node("li", {},
      node("button", { type: "button", class: after[id] > 0 ? "bar" : "bar out",
        style: `--before:${(before[id] / longest).toFixed(4)};--after:${(after[id] / longest).toFixed(4)}`,
        onclick: () => attempt(() => { take(id); show(); }) },
      node("span", { class: "what" }, visible(tokenizer, id)),
      node("span", { class: "how" }, after[id] > 0 ? percent(after[id], 1) : "dropped",
        node("small", {}, ` of ${percent(before[id], 1)}`))))));
    const rest = 1 - best.reduce((sum, id) => sum + after[id], 0);
    summary.textContent = `${left.toLocaleString("en")} of ${absent.toLocaleString("en")} tokens may come; ` +
      `${percent(Math.max(rest, 0), 1)} of the probability is with those not shown. Entropy ` +
      `${Math.abs(bits(after)).toFixed(2)} bits, as the model says it ${bits(before).toFixed(2)}.`;
    written.replaceChildren(...prompt.map((id) => node("span", { class: "token mark" }, visible(tokenizer, id))),
      ...said.map((id) => node("span", { class: "token answer", title: `id ${id}` }, visible(tokenizer, id))));
  }

  app.replaceChildren(
    node("div", { class: "controls" }, mode.box, text.box), remark,
    presets,
    node("div", { class: "controls" }, Object.values(dials).map((dial) => dial.box)),
    node("h2", {}, "What may come next"),
    node("p", { class: "note" }, "Filled: the probability it is drawn with. Outlined: what the model gave it. The longest " +
      "bar is full. Press a token to take it."),
    bars, summary,
    node("h2", {}, "The text"), written,
    node("div", { class: "row" },
      button("Draw one token", () => write(1), { class: "main", id: "one" }), button("Draw twenty", () => write(20)),
      button("Take one back", () => attempt(back)), button("Start again", () => attempt(restart)),
      node("label", { for: "seed" }, "Seed"), seeded));
  text.input.value = BEGINNINGS.quick();
  await restart();
});
