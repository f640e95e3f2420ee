/* Page 6: model, format, length, batch, cards: what fits. */

import { CARDS, FORMATS, MODELS } from "./models.js";
import { cardsNeeded, need, tokensPerSecond } from "./sums.js";
import { begin, choice, node, slider, table } from "./page.js";

const CACHES = [["bf16", "bf16"], ["fp8", "fp8"], ["int8", "int8"], ["int4", "int4"]];
const PARTS = [["weights", "weights", 0], ["cache", "KV cache", 1], ["activations", "inside a pass", 2]];
const gigabytes = (bytes) => bytes >= 1e12 ? `${(bytes / 1e12).toFixed(2)} TB`
  : bytes >= 9.95e10 ? `${(bytes / 1e9).toFixed(0)} GB` : bytes >= 1e8 ? `${(bytes / 1e9).toFixed(1)} GB`
    : `${(bytes / 1e6).toFixed(0)} MB`;

begin((app) => {
  const model = choice("Model", Object.keys(MODELS).map((name) => [name, name]), { value: "Qwen3-8B", onchange: renew });
  const format = choice("Weights in", FORMATS, { onchange: draw });
  const kind = choice("KV cache in", CACHES, { onchange: draw });
  const length = slider("Tokens in each text", { min: 8, max: 18, step: 0.5, value: 15, onchange: draw,
    say: (power) => `${Math.round(2 ** power).toLocaleString("en")} tokens` });
  const batch = slider("Texts at once", { min: 0, max: 8, value: 0, onchange: draw,
    say: (power) => power === 0 ? "1 text" : `${2 ** power} texts` });
  const tokens = () => Math.round(2 ** length.get()), texts = () => 2 ** batch.get();
  const words = node("p", { class: "note" }), bar = node("div"), answer = node("p", { id: "need", "aria-live": "polite" });
  const cards = node("div");

  function renew() {
    const own = MODELS[model.get()];
    words.textContent = `${own.num_hidden_layers} layers, hidden size ${own.hidden_size}, ${own.num_attention_heads} query heads ` +
      `and ${own.num_key_value_heads} KV heads of ${own.head_dim}` +
      (own.num_experts ? `; ${own.num_experts} experts, ${own.num_experts_per_tok} for each token.` : ".");
    draw();
  }

  function draw() {
    const own = MODELS[model.get()], wanted = need(own, tokens(), texts(), format.get(), kind.get());
    answer.textContent = `${gigabytes(wanted.total)}: ${PARTS.map(([key, name]) => `${name} ${gigabytes(wanted[key])}`).join(", ")}.`;
    bar.replaceChildren(node("div", { class: "stack", role: "img", "aria-label": answer.textContent },
      PARTS.map(([key, name, tone]) => node("span", { class: `tone${tone}`,
        style: `flex-grow:${(wanted[key] / wanted.total).toFixed(4)}` },
      node("b", {}, wanted[key] / wanted.total > 0.12 ? name : "")))));
    cards.replaceChildren(table("On which cards (a tenth of each is left to the engine)", [
      ["card", "memory", "cards needed", "one text, at most", "source"],
      ...CARDS.map((card) => {
        const n = cardsNeeded(own, wanted, card);
        const speed = n && tokensPerSecond(own, tokens(), card, n, format.get(), kind.get());
        return [card.name, gigabytes(card.memory), n === null ? "does not fit" : String(n),
                n ? `${speed < 10 ? speed.toFixed(1) : Math.round(speed).toLocaleString("en")} tokens/s` : "–", card.status];
      })]));
  }

  app.replaceChildren(
    node("div", { class: "controls" }, model.box, format.box, kind.box, length.box, batch.box), words,
    bar, answer, cards,
    node("p", { class: "note" }, "Counted is what the arithmetic asks for, in units of 10⁹ bytes; an engine adds its own. The speed is a " +
      "bound: each new token reads the weights it uses and its text's cache once. Real engines reach half to nine tenths."));
  renew();
});
