/* Page 8: the forward pass as a picture that one can walk, with shapes and live numbers at every step. */

import { Cache, Trouble } from "./qwen3.js";
import { MODELS } from "./models.js";
import { attempt, begin, checkpoint, choice, node, roving, slider, strange, textField, visible } from "./page.js";

/* name as `forward` tells it, title, what happens, shape, the weight's shape, branch of the picture */
const STEPS = [
  ["embed_tokens", "embedding", "Each token's row of the table: the stream begins.", "t D", "V D", "stream"],
  ["input_layernorm", "RMSNorm", "Each token divided by its root mean square, times a gain.", "t D", "D", "attention"],
  ["q_proj", "queries", "What each head of each token looks for.", "t h d", "h·d D", "attention"],
  ["k_proj", "keys", "What each token offers to be found by; fewer heads than queries have.", "t g d", "g·d D", "attention"],
  ["v_proj", "values", "What is fetched from a token that is found.", "t g d", "g·d D", "attention"],
  ["q_norm", "QK-norm, queries", "RMSNorm of each head by itself: logits cannot explode.", "t h d", "d", "attention"],
  ["k_norm", "QK-norm, keys", "The same for the keys.", "t g d", "d", "attention"],
  ["q rotated", "RoPE, queries", "Each pair of channels turned by an angle that grows with the position.", "t h d", "", "attention"],
  ["k rotated", "RoPE, keys", "The same for the keys, which now go into the cache, with the values.", "t g d", "", "attention"],
  ["attention", "attention weights", "How much each token takes from each one before it; rows sum to one.", "h t s", "", "attention"],
  ["heads", "heads' output", "The values, weighted; several query heads share a KV head.", "t h d", "", "attention"],
  ["o_proj", "output projection", "The heads mixed, back to the stream's size.", "t D", "D h·d", "attention"],
  ["+ attention", "added to the stream", "The stream goes on, with what attention found.", "t D", "", "stream"],
  ["post_attention_layernorm", "RMSNorm", "As before, with another gain.", "t D", "D", "feed"],
  ["gate_proj", "gate", "How far each inner channel opens.", "t F", "F D", "feed"],
  ["up_proj", "up", "What would go through.", "t F", "F D", "feed"],
  ["silu(gate) * up", "SwiGLU", "silu(gate) times up: most channels stay nearly shut.", "t F", "", "feed"],
  ["down_proj", "down", "Back to the stream's size.", "t D", "D F", "feed"],
  ["+ feed-forward", "added to the stream", "The layer is done; the next one reads the stream.", "t D", "", "stream"],
  ["norm", "final RMSNorm", "Behind the last layer.", "t D", "D", "stream"],
  ["lm_head", "logits", "How probable each token of the vocabulary is as the next.", "t V", "V D", "stream"],
];
const ONCE = new Set(["embed_tokens", "norm", "lm_head"]);
const LETTERS = { t: "tokens", s: "tokens so far", D: "hidden_size", h: "num_attention_heads", d: "head_dim",
  g: "num_key_value_heads", F: "intermediate_size", V: "vocab_size" };
const LONGEST = 48; // tokens

begin(async (app) => {
  const { model, tokenizer } = await checkpoint("qwen3-nano");
  let ids = [], seen = new Map(), at = 0;

  const text = textField("The text that runs through it", { rows: 2, oninput: () => attempt(run),
    value: "Return the number of items in the list." });
  const remark = node("p", { class: "note", "aria-live": "polite" });
  const other = choice("Shapes of", [["nano", "qwen3-nano, which runs here"], ...Object.keys(MODELS).map((n) => [n, n])],
    { onchange: show });
  const layer = slider("Layer", { min: 1, max: model.config.num_hidden_layers, value: 1, onchange: show });
  const walk = node("div", { class: "walk", role: "group", "aria-label": "Steps, from the embedding to the logits: move with the arrow keys" });
  STEPS.forEach(([, title, , shape, , branch], i) => walk.append(node("button",
    { type: "button", class: `step ${branch}`, onclick: () => choose(i), onfocus: () => choose(i) },
    node("b", {}, title), node("span", {}, shape.replaceAll(" ", " × ")))));
  roving(walk);
  const panel = node("div", { class: "panel" });

  async function run() {
    const given = text.input.value;
    if (!given) throw new Trouble("There is no text yet: write some.");
    const next = tokenizer.encode(given);
    if (next.length > LONGEST) throw new Trouble(`The text has ${next.length} tokens, and the page takes ${LONGEST}.`);
    ids = next;
    remark.textContent = strange(tokenizer, given);
    seen = new Map();
    model.forward(ids, new Cache(model.config), { all: true, see: (name, i, data, shape) =>
      seen.set(ONCE.has(name) ? name : `${i} ${name}`, { data: Float32Array.from(data), shape }) });
    show();
  }

  function choose(i) {
    at = i;
    show();
  }

  /** A shape's letters and numbers in the config chosen. */
  function say(letters) {
    const own = other.get() === "nano" ? model.config : MODELS[other.get()];
    const size = (letter) => letter === "t" || letter === "s" ? ids.length
      : letter === "F" && own.num_experts ? own.moe_intermediate_size : own[LETTERS[letter]];
    const words = letters.split(" ").map((part) => part.split("·").reduce((all, one) => all * size(one), 1));
    return { words: words.map((n) => n.toLocaleString("en")).join(" × "), count: words.reduce((a, b) => a * b, 1), own };
  }

  function show() {
    const [name, title, what, shape, weight] = STEPS[at];
    Array.from(walk.children).forEach((one, i) => one.setAttribute("aria-pressed", String(i === at)));
    const here = say(shape), own = here.own, table = weight && say(weight);
    const tied = name === "lm_head" && own.tie_word_embeddings;
    const perExpert = own.num_experts && ["gate_proj", "up_proj", "silu(gate) * up"].includes(name);
    const found = seen.get(ONCE.has(name) ? name : `${layer.get() - 1} ${name}`);
    const letters = [...new Set(`${shape} ${weight}`.replace(/[ ·]/g, ""))];
    panel.replaceChildren(
      node("h2", {}, `${title}${ONCE.has(name) ? "" : `, layer ${layer.get()}`}`),
      node("p", {}, what, perExpert ? ` Each token is sent to ${own.num_experts_per_tok} of ${own.num_experts} experts, and this ` +
        "is the shape in one of them." : "", own.num_experts && name === "post_attention_layernorm" ?
        " Then the router picks the experts." : ""),
      node("p", { id: "shape" }, "Shape ", node("b", {}, here.words), ` (${shape.replaceAll(" ", " × ")}). `,
        table ? `Weights ${table.words}: ${table.count.toLocaleString("en")}` +
          (tied ? ", the embedding's own table." : perExpert ? ` for each of ${own.num_experts} experts.` : ".") : "No weights."),
      node("p", { class: "note" }, letters.filter((l) => LETTERS[l]).map((l) => `${l}: ${LETTERS[l]}`).join(", ") + "."),
      other.get() === "nano" ? picture(found, title)
        : node("p", { class: "note" }, "The numbers are not shown, since this model does not run here: choose qwen3-nano for them."));
  }

  /** The numbers as a picture: a line for each token (and head), blue below zero, orange above. */
  function picture({ data, shape }, title) {
    const width = shape.at(-1), rows = data.length / width, canvas = node("canvas", { role: "img", width, height: rows });
    const paint = canvas.getContext("2d"), image = paint.createImageData(width, rows);
    let low = Infinity, high = -Infinity, squares = 0;
    for (const x of data) { low = Math.min(low, x); high = Math.max(high, x); squares += x * x; }
    const most = Math.max(-low, high) || 1;
    data.forEach((x, i) => {
      const strength = Math.sqrt(Math.abs(x) / most);
      image.data.set(x < 0 ? [11, 98, 168, 255 * strength] : [200, 84, 0, 255 * strength], 4 * i);
    });
    paint.putImageData(image, 0, 0);
    const summary = `from ${low.toPrecision(3)} to ${high.toPrecision(3)}, root mean square ` +
      `${Math.sqrt(squares / data.length).toPrecision(3)}`;
    canvas.setAttribute("aria-label", `The numbers of ${title}: ${summary}`);
    canvas.style.aspectRatio = `${Math.max(width, rows / 2)} / ${Math.min(rows, 2 * width)}`;
    const best = title === "logits" ? Array.from(data.subarray(-width).keys()).sort((a, b) =>
      data[data.length - width + b] - data[data.length - width + a]).slice(0, 5) : [];
    return node("div", {}, canvas, node("p", { class: "note" }, `${rows.toLocaleString("en")} rows of ${width.toLocaleString("en")} ` +
      `numbers, ${summary}. Blue is below zero, orange above.`,
      best.length ? ` The five most probable next tokens: ${best.map((id) => `“${visible(tokenizer, id)}”`).join(", ")}.` : ""));
  }

  app.replaceChildren(node("div", { class: "controls" }, text.box, other.box, layer.box), remark,
    node("div", { class: "tour" }, walk, panel));
  await run();
});
