/* A long list of key=value lines, and questions about it: what the RoPE page asks a stretched model. */

import { Cache, largest, randomNumbers } from "./qwen3.js";
import { breathe } from "./page.js";

export const DEPTHS = [0.02, 0.2, 0.4, 0.6, 0.8, 0.98]; // 0: where the list begins
const EACH = 3; // questions at each depth
const KEYS = Array.from({ length: 260 }, (_, i) => "abcdefghijklmnopqrstuvwxyz"[Math.floor(i / 10)] + i % 10);

/** A list of about `length` tokens, {lines, asked: [{key, value, depth}]}. There are only 260 keys; the list is
    filled up with repeated lines, never with one that is asked about. */
export function makeList(tokenizer, length, seed) {
  const random = randomNumbers(seed), below = (n) => Math.floor(random() * n);
  const digits = () => String(below(100)).padStart(2, "0");
  const keys = [...KEYS];
  for (let i = keys.length - 1; i > 0; i--) { // Fisher and Yates
    const j = below(i + 1);
    [keys[i], keys[j]] = [keys[j], keys[i]];
  }
  const asked = DEPTHS.flatMap((depth) => Array.from({ length: EACH }, () => ({ key: keys.pop(), value: digits(), depth })));
  const others = keys.map((key) => `${key}=${random() < 0.5 ? digits() : keys[below(keys.length)]}`);
  const size = (line) => tokenizer.encode(`${line}\n`).length;
  let room = length - asked.reduce((sum, { key, value }) => sum + size(`${key}=${value}`), 16);
  const lines = [];
  for (let i = 0; room > 8; i++) {
    lines.push(i < others.length ? others[i] : others[below(others.length)]);
    room -= size(lines.at(-1));
  }
  const last = lines.length + asked.length - 1;
  asked.forEach(({ key, value, depth }, i) => lines.splice(Math.round(depth * last) + i % EACH, 0, `${key}=${value}`));
  return { lines, asked };
}

/** Read a list once, a piece at a time, and ask each question behind it; the cache is taken back to the list's end
    each time. Tells `progress` how much is read and which answers were right. */
export async function lookUp(model, tokenizer, { lines, asked }, progress = () => true) {
  const ids = tokenizer.encode(lines.join("\n")), cache = new Cache(model.config);
  while (cache.length < ids.length) {
    model.forward(ids.slice(cache.length, cache.length + 32), cache);
    if (!progress(cache.length / ids.length, [])) return null;
    await breathe();
  }
  const right = [];
  for (const { key, value } of asked) {
    const question = tokenizer.encode(`\nfind ${key}\n${key}=${value}`), V = model.config.vocab_size;
    const logits = model.forward(question.slice(0, -1), cache, { all: true }), n = question.length;
    cache.length = ids.length;
    right.push([n - 3, n - 2].every((i) => largest(logits.subarray(i * V, (i + 1) * V)) === question[i + 1]));
    if (!progress(1, right)) return null;
    await breathe();
  }
  return right;
}
