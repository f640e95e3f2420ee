/* One thought, and what is answered when it is cut: what the budget page is about. */

import { Cache, encodeChat, generate } from "./qwen3.js";

export const EARLY_STOP = "\n</think>\n\n"; // the nano's own, from its generation_config.json

/** What a greedy model says to a question. A greedy thought under a budget is the beginning of the one without,
    so the model thinks once, and for each budget only the answer is written anew, from the same cache. */
export class Thought {
  constructor({ model, tokenizer }, question) {
    Object.assign(this, { model, tokenizer });
    this.prompt = encodeChat(tokenizer, [{ role: "user", content: question }]);
    this.cache = new Cache(model.config);
    this.said = []; // the reply without a budget, as `generate` tells it
    this.cuts = new Map();
  }

  /** Think to the end, token by token. */
  * think() {
    for (const token of generate(this.model, this.tokenizer, this.prompt, { cache: this.cache })) {
      this.said.push(token);
      yield token;
    }
    this.intact = this.cache.length;
  }

  /** How many tokens the thought has, marks not counted. */
  get length() {
    return this.said.filter((token) => token.part === "reasoning").length;
  }

  /** The reply under a budget: the tokens kept of the thought, the forced ones, the answer. null: no budget. */
  under(budget) {
    if (budget === null || budget >= this.length) return this.said;
    if (!this.cuts.has(budget)) {
      const first = this.said.findIndex((token) => token.part === "reasoning");
      const kept = this.said.slice(0, first + budget);
      const begun = [...this.prompt, ...kept.map((token) => token.id)];
      // What the cache still holds of the thought serves again; the last id is always read, for its logits.
      // What comes next is written over the rest, so that longer budgets do well to come first.
      this.cache.length = this.intact = Math.min(this.intact, begun.length - 1);
      const options = { cache: this.cache, budget: 0, maxNewTokens: 256 - kept.length };
      this.cuts.set(budget, [...kept, ...generate(this.model, this.tokenizer, begun, options)]);
    }
    return this.cuts.get(budget);
  }

  /** The answer of a reply as text, and whether the reply came to its end. */
  answer(reply) {
    const ids = reply.filter((token) => token.part === "answer").map((token) => token.id);
    return { text: this.tokenizer.decode(ids).trim(), finished: reply.at(-1)?.part === "end" };
  }
}
