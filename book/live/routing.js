/* Page 2: which experts take each token, layer by layer, and what domains make of it. */

import { Trouble } from "./qwen3.js";
import { count, exchangedExperts, randomRouters, read, specialisation } from "./experts.js";
import { FAMILIES, PROBLEMS } from "./problems.js";
import { attempt, begin, breathe, button, checkpoint, choice, node, percent, roving, strange, table, textField,
         visible } from "./page.js";

const CODE = `def total(numbers):
    """Return the sum of a list of numbers."""
    result = 0
    for number in numbers:
        result += number
    return result

class Stack:
    def __init__(self, items=None):
        self.items = list(items or [])

    def push(self, item):
        self.items.append(item)
`;
const ENGLISH = `The function returns the number of items in the list. If the list is empty, the value is zero and
nothing is changed. A second argument names the first index that is to be used, and the default is the beginning. The
class has the same methods as a dictionary, so that it can be used where a dictionary is expected.
`;
const DOMAINS = [...FAMILIES, ["code", "Python"], ["english", "English"]];
const LONGEST = 300, EACH_DOMAIN = 100; // tokens

/** A text of a domain: solved problems of the test split, as training wrote its own, or one of the two above. */
function sample(domain) {
  if (domain === "code") return CODE;
  if (domain === "english") return ENGLISH;
  return PROBLEMS.filter((problem) => problem.family === domain).slice(0, 6)
    .map((problem) => `${problem.prompt}\n${problem.trace}\nanswer ${problem.answer}`).join("\n\n");
}

begin(async (app) => {
  const { model, tokenizer } = await checkpoint("qwen3-nano-moe");
  const E = model.config.num_experts, L = model.config.num_hidden_layers, layers = Array.from({ length: L }, (_, i) => i);
  let ids = [], one = null, chosen = 0;

  // -- one text ----------------------------------------------------------------------------------------
  const text = textField("The text that it reads", { rows: 4, oninput: () => attempt(look) });
  const samples = node("div", { class: "row", role: "group", "aria-label": "Samples" },
    DOMAINS.map(([key, words]) => button(words, () => {
      text.input.value = sample(key).slice(0, 160).split("\n\n")[0];
      attempt(look);
    })));
  const remark = node("p", { class: "note", "aria-live": "polite" });
  const marked = choice("Mark where this expert works", [["", "none"], ...layers.flatMap((layer) =>
    Array.from({ length: E }, (_, e) => [`${layer}:${e}`, `layer ${layer + 1}, expert ${e}`]))], { onchange: paint });
  const grid = node("div", { class: "routes", role: "group", "aria-label": "Tokens, and the experts that take them" });
  const detail = node("div", { id: "detail", "aria-live": "polite" });
  const summary = node("p", {});

  async function look() {
    const given = text.input.value;
    if (!given) throw new Trouble("There is no text yet: write some, or take a sample.");
    const next = tokenizer.encode(given);
    if (next.length > LONGEST) throw new Trouble(`The text has ${next.length} tokens, and the page takes ${LONGEST}.`);
    ids = next;
    one = read(model, ids);
    chosen = 0;
    remark.textContent = strange(tokenizer, given);
    const busy = layers.map((layer) => new Set(one.picks[layer].flat().map((pick) => pick.expert)).size);
    summary.textContent = `${ids.length} tokens; of ${E} experts a layer, ${busy.join(", ")} had work. ` +
      (ids.length > 1 ? `The text costs the model ${one.loss.toFixed(2)} nats a token.` : "");
    paint();
  }

  function paint() {
    const [layer, expert] = marked.get().split(":").map(Number);
    grid.replaceChildren(...ids.map((id, i) => {
      const picks = layers.map((l) => one.picks[l][i]);
      const here = marked.get() !== "" && picks[layer].some((pick) => pick.expert === expert);
      return node("button", { type: "button", class: here ? "route here" : "route",
        "aria-pressed": String(i === chosen), onclick: () => { chosen = i; paint(); grid.children[i].focus(); } },
      node("b", {}, visible(tokenizer, id)),
      picks.map((row) => node("span", {}, row.map(({ expert: e, weight }) =>
        node("i", { style: `--p:${weight.toFixed(2)}` }, String(e))))));
    }));
    roving(grid, chosen);
    detail.replaceChildren(table(`Token ${chosen + 1}, “${visible(tokenizer, ids[chosen])}”: the router's probability of ` +
      `each expert; the two in bold do the work`, [["expert", ...Array.from({ length: E }, (_, e) => String(e))],
      ...layers.map((l) => [`layer ${l + 1}`, ...one.p[l][chosen].map((p, e) => {
        const works = one.picks[l][chosen].some((pick) => pick.expert === e);
        return node("span", { class: "heat", style: `--p:${Math.sqrt(p).toFixed(2)}` },
          works ? node("b", {}, percent(p)) : percent(p));
      })])]));
  }

  // -- domains -----------------------------------------------------------------------------------------
  const which = choice("Routers", [["trained", "as trained"], ["random", "control: drawn anew"],
    ["exchanged", "control: experts exchanged"]], { onchange: drawDomains });
  const shown = choice("Layer", layers.map((l) => [String(l), `layer ${l + 1} of ${L}`]), { onchange: drawDomains });
  const traffic = node("div", { id: "traffic" }), losses = node("div", { "aria-live": "polite" });
  const known = new Map();

  const kinds = { trained: () => model, random: () => randomRouters(model, 1),
                  exchanged: () => exchangedExperts(model, 1) };
  const names = { trained: "as trained", random: "drawn anew", exchanged: "exchanged" };

  async function domains() {
    const texts = DOMAINS.map(([key]) => tokenizer.encode(sample(key)));
    const length = Math.min(EACH_DOMAIN, ...texts.map((t) => t.length));
    for (const [kind, make] of Object.entries(kinds)) {
      const subject = make(), reads = [];
      for (const t of texts) {
        reads.push(read(subject, t.slice(0, length)));
        await breathe();
      }
      known.set(kind, { counts: count(reads, E), losses: reads.map((r) => r.loss) });
      drawDomains();
    }
    const columns = [...known];
    losses.replaceChildren(
      table(`Nats a token, ${length} tokens of each domain`, [["routers", ...columns.map(([key]) => names[key])],
        ...DOMAINS.map(([, words], g) => [words, ...columns.map(([, found]) => found.losses[g].toFixed(2))])]),
      table("How far experts are specialised (0: every expert serves all domains alike)", [
        ["routers", ...columns.map(([key]) => names[key])],
        ...layers.map((l) => [`layer ${l + 1}`, ...columns.map(([, found]) =>
          specialisation(found.counts)[l].toFixed(2))])]));
  }

  function drawDomains() {
    const l = Number(shown.get()), counts = known.get(which.get())?.counts;
    if (!counts) return;
    traffic.replaceChildren(table(`Layer ${l + 1}: of each domain's choices, the share that each expert gets`, [
      ["", ...Array.from({ length: E }, (_, e) => String(e))],
      ...DOMAINS.map(([, words], g) => {
        const all = counts[g][l].reduce((a, b) => a + b, 0);
        return [words, ...counts[g][l].map((n) => node("span",
          { class: "heat", style: `--p:${Math.min(1, 2.5 * n / all).toFixed(2)}` }, percent(n / all)))];
      })]));
  }

  app.replaceChildren(
    samples, node("div", { class: "controls" }, text.box, marked.box), remark,
    node("p", { class: "note" }, `Under each token, a line for each of the ${L} layers: the two experts of ${E} that take ` +
      "it. The stronger the colour, the greater its share. Press a token to see all sixteen."),
    grid, summary, detail,
    node("h2", {}, "By domain, and beside its controls"),
    node("p", {}, "Experts that prefer a domain are no sign of training: domains differ in their tokens, and a router " +
      "that never learned sends the same token the same way. So look at the controls. What training did shows in the " +
      "loss."),
    node("div", { class: "controls" }, which.box, shown.box), traffic, losses);
  text.input.value = sample("arithmetic").split("\n\n")[0];
  await look();
  await domains();
});
