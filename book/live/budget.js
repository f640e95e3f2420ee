/* Page 1: a problem, its thought token by token, the cut, the answer; and the curve over many problems. */

import { Trouble } from "./qwen3.js";
import { Thought } from "./thought.js";
import { PROBLEMS, FAMILIES } from "./problems.js";
import { attempt, begin, breathe, button, chart, checkpoint, choice, interval, node, percent, slider, strange,
         table, textField, visible } from "./page.js";

const MODELS = [["qwen3-nano", "qwen3-nano, 1.15 million parameters"],
                ["qwen3-nano-student", "its student, 0.46 million"]];
const BUDGETS = [0, 8, 16, 24, 32, 48, null];
const RUN = 60; // problems of one press of the button
const LONGEST = 700; // tokens of a question: beyond, a thought would have no room

/** A token as a coloured chip. */
function chip(tokenizer, { id, part, forced, probability }, lost = false) {
  const sure = part === "reasoning" && !forced && !lost;
  return node("span", {
    class: ["token", part, forced ? "forced" : "", lost ? "lost" : "", sure ? "sure" : ""].join(" ").trim(),
    style: sure ? `--p:${probability.toFixed(3)}` : null,
    title: forced ? `id ${id}, fed in place of what the model wanted`
      : `id ${id}, probability ${percent(probability, 1)}`,
  }, visible(tokenizer, id));
}

begin(async (app) => {
  await checkpoint(MODELS[0][0]); // what stands here without it stays if it is missing
  let place = 0, thought = null, running = false;

  // -- one problem -------------------------------------------------------------------------------------
  const model = choice("Model", MODELS, { onchange: () => attempt(think) });
  const family = choice("Kind of problem", FAMILIES, { onchange: () => another() });
  const question = textField("The problem, as the model reads it (you may write your own)", { rows: 4 });
  const budget = slider("Budget", { min: 0, max: 1, value: 1, onchange: show, say: (value) =>
    thought && value >= thought.length ? `${thought.length} tokens: no cut` : `${value} tokens` });
  const shown = node("div", { class: "tokens", role: "group", "aria-label": "The reply, token by token" });
  const verdict = node("p", { class: "verdict", "aria-live": "polite" });
  const remark = node("p", { class: "note", "aria-live": "polite" });
  const go = button("Think", () => attempt(think), { class: "main", id: "think" });

  const known = () => PROBLEMS.find((problem) => problem.prompt === question.input.value);
  function another() {
    const some = PROBLEMS.filter((problem) => problem.family === family.get());
    place = (place + 1) % some.length;
    question.input.value = some[place].prompt;
    return attempt(think);
  }

  async function think() {
    const own = await checkpoint(model.get()), text = question.input.value.trim();
    if (!text) throw new Trouble("There is no problem yet: write one, or take another of ours.");
    thought = null;
    const next = new Thought(own, text);
    if (next.prompt.length > LONGEST)
      throw new Trouble(`This problem has ${next.prompt.length} tokens, and the page takes ${LONGEST}, so that the ` +
                        `thought has room: make it shorter.`);
    remark.textContent = strange(own.tokenizer, text);
    shown.replaceChildren();
    verdict.replaceChildren();
    for (const token of next.think()) {
      shown.append(chip(own.tokenizer, token));
      await breathe();
    }
    thought = next;
    budget.input.max = String(thought.length);
    budget.set(thought.length);
    budget.input.disabled = thought.length === 0;
    show();
  }

  function show() {
    if (!thought) return;
    const { tokenizer } = thought, limit = Number(budget.input.value), reply = thought.under(limit);
    const chips = reply.map((token) => chip(tokenizer, token));
    if (reply !== thought.said) { // what the model would have gone on to think stands behind the cut
      const cut = reply.findIndex((token) => token.forced);
      const lost = thought.said.filter((token) => token.part === "reasoning").slice(limit);
      chips.splice(cut, 0, node("span", { class: "sr" }, " cut here "),
        ...lost.map((token) => chip(tokenizer, token, true)));
    }
    shown.replaceChildren(...chips);
    const { text, finished } = thought.answer(reply), problem = known();
    const right = finished && text === problem?.answer;
    verdict.replaceChildren(
      `With ${Math.min(limit, thought.length)} of ${thought.length} tokens of thought it answers `,
      node("b", { id: "answer" }, text || "nothing"), finished ? "" : " (and comes to no end)",
      ...(problem ? [", which is ", node("b", { class: right ? "right" : "wrong" }, right ? "right" : "wrong"),
        right ? "." : `: it should be ${problem.answer}.`] : ["."]));
  }

  // -- many problems -----------------------------------------------------------------------------------
  const right = BUDGETS.map(() => 0);
  let done = 0, drawnFrom = [], counted = "";
  const curve = node("div"), figures = node("div");
  const progress = node("progress", { max: RUN, value: 0, "aria-label": "Problems answered" });
  const told = node("p", { class: "note", "aria-live": "polite" });
  const which = choice("Problems of", [["all", "all five kinds, in turn"], ...FAMILIES]);
  const run = button(`Run ${RUN} problems`, () => attempt(more), { id: "run" });

  async function more() {
    if (running) {
      running = false;
      return;
    }
    if (counted !== model.get() + which.get()) {
      counted = model.get() + which.get();
      right.fill(0);
      done = 0;
      drawnFrom = PROBLEMS.filter((problem) => which.get() === "all" || problem.family === which.get());
    }
    if (done === drawnFrom.length) {
      told.textContent = `All ${done} problems of this choice have been answered; take another.`;
      return;
    }
    const own = await checkpoint(model.get()), end = Math.min(done + RUN, drawnFrom.length), start = done;
    running = true;
    run.textContent = "Stop";
    progress.max = end - start;
    const began = performance.now();
    let tokens = 0;
    while (running && done < end) {
      const problem = drawnFrom[done], one = new Thought(own, problem.prompt);
      for (const _ of one.think()) {
        tokens++;
        await breathe();
      }
      BUDGETS.map((limit, i) => [limit, i]).reverse().forEach(([limit, i]) => { // the longest first
        const reply = one.under(limit), { text, finished } = one.answer(reply);
        right[i] += finished && text === problem.answer;
        if (reply !== one.said) tokens += reply.length - limit;
      });
      done++;
      progress.value = done - start;
      draw();
      await breathe();
    }
    const rate = tokens / ((performance.now() - began) / 1000);
    running = false;
    run.textContent = done < drawnFrom.length ? `Run ${Math.min(RUN, drawnFrom.length - done)} more` : "All done";
    told.textContent = `${done} problems, each answered at ${BUDGETS.length} budgets; this browser wrote about ` +
      `${Math.round(rate).toLocaleString("en")} tokens a second, reading the problems included.`;
    run.dataset.tokens = String(tokens);
  }

  function draw() {
    const where = BUDGETS.map((limit) => limit ?? 64), spans = right.map((count) => interval(count, done || 1));
    const words = BUDGETS.map((limit) => limit === null ? "any" : String(limit));
    curve.replaceChildren(chart({
      label: "Share of right answers by thinking budget", x: [0, 64], y: [0, 1],
      xTicks: where.map((value, i) => [value, words[i]]), xName: "thinking budget, tokens",
      yTicks: [0, 0.25, 0.5, 0.75, 1].map((share) => [share, percent(share)]), yName: "right answers",
      series: done ? [{ points: spans.map((s, i) => [where[i], s.share, s.low, s.high]) }] : [],
    }));
    figures.replaceChildren(done ? table(`Right answers of ${done}; the band and the last row are 95% intervals`, [
      ["budget", ...words], ["right", ...right.map(String)],
      ["share", ...spans.map((s) => percent(s.share))],
      ["95%", ...spans.map((s) => `${percent(s.low)} to ${percent(s.high)}`)]]) : "");
  }

  app.replaceChildren(
    node("div", { class: "controls" }, family.box, model.box, question.box),
    node("div", { class: "row" }, go, button("Another problem", another, { id: "another" })),
    remark,
    budget.box,
    shown,
    node("p", { class: "note" }, "Colour of the thought: how sure the model was of each token, from ",
      node("span", { class: "scale", role: "img", "aria-label": "unsure to sure" }),
      " unsure to sure. Struck out: what it would have thought. Dashed: fed to it at the cut. Underlined: the answer."),
    verdict,
    node("h2", {}, "Run sixty, and watch the curve draw itself"),
    node("p", {}, "Problems of the test split, which no stage of training has seen. Each is thought about once; the " +
      "thought is cut at every budget that is shorter, and answered anew. No cut thought was ever trained on."),
    node("div", { class: "controls" }, which.box),
    node("div", { class: "row" }, run, progress), told, curve, figures);
  draw();
  place = 3; // the fourth sum has four steps
  question.input.value = PROBLEMS.filter((problem) => problem.family === FAMILIES[0][0])[place].prompt;
  await think();
});
