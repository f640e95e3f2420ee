/* Page 5: how text falls into tokens of the official vocabulary, and of every smaller one. */

import { PATTERN, STAND_IN, Tokenizer } from "./qwen3.js";
import { attempt, begin, button, chart, checkpoint, node, roving, script, slider, textField, visible } from "./page.js";

const SAMPLES = [
  ["English", "Tokenization is surprisingly international."], ["German", "Donaudampfschifffahrtsgesellschaft, 1234 Meter"],
  ["Chinese", "我们在学习分词器是怎样工作的。"], ["Japanese", "東京タワーは高いです。"], ["Korean", "토크나이저는 재미있습니다."],
  ["Russian", "Токенизация — это интересно."], ["Arabic", "كيف يعمل المُرمِّز؟"], ["Hebrew", "איך עובד הטוקנייזר?"],
  ["Hindi", "टोकन कैसे बनते हैं?"], ["Python", "def total(numbers):\n    return sum(numbers)"], ["Signs and emoji", "naïve café 👩‍🚀🧑🏽‍🔬 x²"],
];
const LONGEST = 2000; // characters

/** The official vocabulary from its merges alone: for each token behind the 256 bytes the two that it joins,
    three bytes each. */
function unpack(packed) {
  const text = atob(packed), vocab = {}, merges = [], names = [];
  // Bytes have the first ids in the order of their stand-ins.
  [...STAND_IN].sort((a, b) => a.codePointAt(0) - b.codePointAt(0)).forEach((name) => { vocab[name] = names.push(name) - 1; });
  const number = (at) => text.charCodeAt(at) | text.charCodeAt(at + 1) << 8 | text.charCodeAt(at + 2) << 16;
  for (let at = 0; at < text.length; at += 6) {
    const left = names[number(at)], right = names[number(at + 3)];
    merges.push(`${left} ${right}`);
    vocab[left + right] = names.push(left + right) - 1;
  }
  return new Tokenizer({ model: { type: "BPE", vocab, merges }, normalizer: { type: "NFC" }, added_tokens: [],
    pre_tokenizer: { pretokenizers: [{ pattern: { Regex: "(?i:'s|'t" } }] } });
}

async function vocabulary() {
  if (globalThis.QWEN3_BUILT) await script("data/qwen3-merges.js");
  if (!globalThis.QWEN3_MERGES) return { tokenizer: (await checkpoint("qwen3-nano")).tokenizer, official: false };
  return { tokenizer: unpack(globalThis.QWEN3_MERGES), official: true };
}

begin(async (app) => {
  const { tokenizer, official } = await vocabulary();
  const most = 256 + tokenizer.ranks.size, steps = 200;
  let ids = [], words = [], chosen = 0;

  // The slider's steps are even on a logarithmic scale.
  const size = (step) => step === steps ? most : Math.round(256 * (most / 256) ** (step / steps));
  const text = textField("Text, in any script", { rows: 4, oninput: () => attempt(cut) });
  const samples = node("div", { class: "row", role: "group", "aria-label": "Samples" }, SAMPLES.map(([name, words]) =>
    button(name, () => { text.input.value = words; attempt(cut); })));
  const dial = slider("Size of the vocabulary", { min: 0, max: steps, value: steps, onchange: () => attempt(cut),
    say: (step) => `${size(step).toLocaleString("en")} tokens` });
  const summary = node("p", { id: "summary", "aria-live": "polite" }), curve = node("div");
  const line = node("div", { class: "tokens pick", role: "group", "aria-label": "Tokens: choose one with the arrow keys" });
  const tree = node("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Merge tree of the word chosen" });

  function tokens(limit) {
    tokenizer.limit = limit - 256;
    tokenizer.known.clear();
    return tokenizer.encode(text.input.value);
  }

  async function cut() {
    if (text.input.value.length > LONGEST) text.input.value = text.input.value.slice(0, LONGEST);
    ids = tokens(size(dial.get()));
    words = (text.input.value.normalize("NFC").match(PATTERN) ?? []).flatMap((word, w) =>
      tokenizer.merge(word).map(() => ({ word, w })));
    const bytes = new TextEncoder().encode(text.input.value).length;
    summary.textContent = ids.length ? `${ids.length} tokens for ${bytes} bytes: ${(bytes / ids.length).toFixed(2)} bytes a token.`
      : "There is no text yet.";
    line.replaceChildren(...ids.map((id, i) => node("button", { type: "button", class: `token part${words[i].w % 2}`,
      title: `id ${id}`, onclick: () => choose(i), onfocus: () => choose(i) }, visible(tokenizer, id))));
    roving(line);
    chosen = Math.min(chosen, Math.max(ids.length - 1, 0));
    drawTree();
    drawCurve();
  }

  function choose(i) {
    chosen = i;
    drawTree();
  }

  /** The merges of a word, from its bytes upwards. */
  function drawTree() {
    if (!ids.length) {
      tree.replaceChildren();
      return;
    }
    Array.from(line.children).forEach((one, i) => one.setAttribute("aria-pressed", String(i === chosen)));
    const { word } = words[chosen], parts = Array.from(new TextEncoder().encode(word), (byte, i) =>
      ({ name: STAND_IN[byte], x: 30 + 44 * i, y: 0, from: [] }));
    const all = [...parts], said = [];
    tokenizer.merge(word, (at, rank) => {
      const [left, right] = parts.slice(at, at + 2);
      const made = { name: left.name + right.name, x: (left.x + right.x) / 2, y: 1 + Math.max(left.y, right.y),
                     from: [left, right], rank };
      parts.splice(at, 2, made);
      all.push(made);
      said.push(`${show(left)} and ${show(right)} by merge ${(rank + 1).toLocaleString("en")}`);
    });
    const high = Math.max(...all.map((one) => one.y)), W = 44 * Math.min(all.length, 400) + 60, H = 52 * (high + 1);
    const py = (y) => H - 26 - 52 * y;
    const drawn = node("svg:svg", { viewBox: `0 0 ${W} ${H}`, width: W, height: H, class: "tree", role: "img",
      "aria-label": `“${word.trim()}”: ${said.length ? said.join("; ") : "no merge applies"}` });
    for (const one of all) for (const part of one.from)
      drawn.append(node("svg:line", { x1: one.x, y1: py(one.y), x2: part.x, y2: py(part.y) }));
    for (const one of all) drawn.append(
      node("svg:text", { x: one.x, y: py(one.y) + 5, "text-anchor": "middle", class: parts.includes(one) ? "kept" : "" }, show(one),
        node("svg:title", {}, one.rank === undefined ? "a byte" : `merge ${one.rank + 1}`)));
    tree.replaceChildren(drawn);
  }

  const show = (one) => visible(tokenizer, tokenizer.vocab.get(one.name));

  function drawCurve() {
    const all = [256, 512, 1024, 4096, 16_384, 65_536].filter((n) => n < most).concat(most);
    const counts = all.map((n) => tokens(n).length), top = Math.max(...counts, 1);
    tokenizer.limit = size(dial.get()) - 256;
    tokenizer.known.clear();
    curve.replaceChildren(chart({ label: `Tokens of this text by size of the vocabulary: ${all.map((n, i) =>
      `${n.toLocaleString("en")}: ${counts[i]}`).join(", ")}`, x: [8, Math.log2(most)], y: [0, top],
      xName: "size of the vocabulary", yName: "tokens of this text",
      xTicks: all.map((n) => [Math.log2(n), n === most ? `${Math.round(n / 1000)}k` : n < 1000 ? String(n) : `${Math.round(n / 1024)}k`]),
      yTicks: [0, Math.round(top / 2), top].map((n) => [n, String(n)]),
      series: [{ points: all.map((n, i) => [Math.log2(n), counts[i]]) }] }));
  }

  app.replaceChildren(
    official ? "" : node("p", { class: "note" }, "The official vocabulary is put in when the pages are built where " +
      "the package is installed (python book/live/build.py OUT); here you see the nano's own."),
    samples, node("div", { class: "controls" }, text.box, dial.box), summary, line,
    node("h2", {}, "The merges of one word"),
    node("p", { class: "note" }, "Choose a token above. From its bytes upwards, the pair of the lowest rank is joined first; what is left at the " +
      "top are the tokens."), tree,
    node("h2", {}, "What a larger vocabulary buys"), curve);
  text.input.value = SAMPLES[0][1];
  await cut();
});
