/* Page 3: a token, and where each head of each layer looked when it was read. */

import { Cache, Trouble, encodeChat } from "./qwen3.js";
import { FAMILIES, PROBLEMS } from "./problems.js";
import { attempt, begin, button, checkpoint, choice, node, percent, roving, strange, textField,
         visible } from "./page.js";

const LONGEST = 160; // tokens

begin(async (app) => {
  const { model, tokenizer } = await checkpoint("qwen3-nano");
  const c = model.config, L = c.num_hidden_layers, H = c.num_attention_heads;
  let ids = [], maps = [], chosen = 0;

  const text = textField("The text that it reads", { rows: 4, oninput: () => attempt(look) });
  const samples = node("div", { class: "row", role: "group", "aria-label": "Samples" }, FAMILIES.map(([key, words]) =>
    button(words, () => { text.input.value = sample(key); attempt(look); })));
  const way = choice("Show", [["from", "where the token looks"], ["to", "which later tokens look at it"]],
    { onchange: () => paint() });
  const remark = node("p", { class: "note", "aria-live": "polite" });
  const line = node("div", { class: "tokens pick", role: "group", "aria-label": "Tokens: choose one with the arrow keys" });
  const heads = node("ol", { class: "heads", "aria-label": "Heads" });
  const said = node("p", { id: "said", "aria-live": "polite" });

  /** A problem with its question mark of a prompt, and its thought, as the model writes it. */
  function sample(family) {
    const problem = PROBLEMS.find((one) => one.family === family);
    return `${problem.prompt}\n---\n${problem.trace}`;
  }

  async function look() {
    const given = text.input.value, [question, thought] = given.split("\n---\n");
    if (!given) throw new Trouble("There is no text yet: write some, or take a sample.");
    let next = tokenizer.encode(given);
    if (thought !== undefined) { // read as a conversation: the question, and what is thought about it so far
      next = [...encodeChat(tokenizer, [{ role: "user", content: question }]), tokenizer.control.get("<think>"),
              ...tokenizer.encode(`\n${thought}`)];
    }
    if (next.length > LONGEST) throw new Trouble(`The text has ${next.length} tokens, and the page takes ${LONGEST}.`);
    ids = next;
    remark.textContent = strange(tokenizer, given);
    maps = [];
    model.forward(ids, new Cache(c), { see: (name, layer, data) => { if (name === "attention") maps.push(data); } });
    chosen = Math.max(ids.length - 3, 0); // in a look-up, where the first digit is fetched
    line.replaceChildren(...ids.map((id, i) => node("button", { type: "button", class: "token",
      onmouseenter: () => choose(i), onfocus: () => choose(i), onclick: () => choose(i) }, visible(tokenizer, id))));
    heads.replaceChildren(...Array.from({ length: L * H }, (_, n) => node("li", {},
      node("h3", {}, `layer ${Math.floor(n / H) + 1}, head ${n % H + 1}`), node("p", { class: "strip" },
        ids.map((id) => node("span", {}, visible(tokenizer, id)))), node("p", { class: "note most" }))));
    roving(line, chosen);
    paint();
  }

  function choose(i) {
    if (i === chosen) return;
    chosen = i;
    paint();
  }

  function paint() {
    const t = ids.length, from = way.get() === "from";
    Array.from(line.children).forEach((one, i) => one.setAttribute("aria-pressed", String(i === chosen)));
    let sharpest = [0, 0, 0];
    for (let n = 0; n < L * H; n++) {
      const own = maps[Math.floor(n / H)], head = n % H * t * t;
      const weight = (i) => own[head + (from ? chosen * t + i : i * t + chosen)];
      const spans = heads.children[n].querySelectorAll(".strip span");
      let best = from ? 0 : chosen;
      spans.forEach((span, i) => {
        span.style.setProperty("--p", weight(i).toFixed(3));
        span.className = i === chosen ? "self" : "";
        if (weight(i) > weight(best)) best = i;
      });
      if (weight(best) > sharpest[0] && best !== chosen) sharpest = [weight(best), n, best];
      heads.children[n].querySelector(".most").textContent =
        `most: “${visible(tokenizer, ids[best])}”, ${percent(weight(best))}`;
    }
    const [share, n, at] = sharpest, name = visible(tokenizer, ids[chosen]);
    said.textContent = `Token ${chosen + 1} of ${t}, “${name}”. ` + (share ? `Beyond itself, the strongest link is layer ` +
      `${Math.floor(n / H) + 1}, head ${n % H + 1}: ${percent(share)} ${from ? "on" : "from"} token ${at + 1}, ` +
      `“${visible(tokenizer, ids[at])}”.` : "No other token is linked with it.");
  }

  app.replaceChildren(
    samples, node("div", { class: "controls" }, text.box, way.box), remark,
    node("p", { class: "note" }, "A line of three dashes parts a question from the thought about it; without one, the text is " +
      "read as it stands."),
    node("h2", {}, "Choose a token"),
    node("p", { class: "note" }, "Point at one, or move with the arrow keys. The stronger a token's colour below, the more of the head's " +
      "attention it has; the framed one is the token chosen. A token never looks at what comes after it."),
    line, said, heads);
  text.input.value = sample("retrieval");
  await look();
});
