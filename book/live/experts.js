/* What the routers of a model choose, by domain, and two controls: what the routing page counts. */

import { Cache, Qwen3, randomNumbers, route } from "./qwen3.js";

/** Read ids in one go: {picks, p, loss}. picks[layer][i]: [{expert, weight}] of the i-th id, best first; p: the
    router's probabilities of all experts; loss in nats a token, of each id but the first. */
export function read(model, ids) {
  const c = model.config, E = c.num_experts, picks = [], p = [];
  const logits = model.forward(ids, new Cache(c), { all: true, see: (name, layer, data) => {
    if (name !== "gate") return;
    const rows = ids.map((_, i) => data.subarray(i * E, (i + 1) * E));
    picks.push(rows.map((row) => route(row, c.num_experts_per_tok, c.norm_topk_prob)));
    p.push(rows.map((row) => route(row, E, false).sort((a, b) => a.expert - b.expert).map((e) => e.weight)));
  } });
  let loss = 0;
  for (let i = 0; i + 1 < ids.length; i++) {
    const row = logits.subarray(i * c.vocab_size, (i + 1) * c.vocab_size);
    const most = row.reduce((a, b) => Math.max(a, b)), sum = row.reduce((a, b) => a + Math.exp(b - most), 0);
    loss += Math.log(sum) + most - row[ids[i + 1]];
  }
  return { picks, p, loss: loss / (ids.length - 1) };
}

/** How often each domain chose each expert, [domain][layer][expert], from the picks of `read`. */
export function count(reads, experts) {
  return reads.map(({ picks }) => picks.map((rows) => {
    const counts = Array(experts).fill(0);
    for (const row of rows) for (const { expert } of row) counts[expert]++;
    return counts;
  }));
}

/** How far the mix of domains among an expert's tokens is from the mix among all, as total variation distance:
    one number a layer, experts weighted by their tokens. Of counts [domain][layer][expert]. */
export function specialisation(counts) {
  const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
  const domains = counts.map((layers) => sum(layers.map(sum))), all = sum(domains);
  return counts[0].map((_, layer) => {
    let far = 0, total = 0;
    counts[0][layer].forEach((_, expert) => {
      const own = counts.map((domain) => domain[layer][expert]), served = sum(own);
      if (!served) return;
      far += served * sum(own.map((n, g) => Math.abs(n / served - domains[g] / all))) / 2;
      total += served;
    });
    return far / total;
  });
}

function withGates(model, change) {
  const tensors = new Map(model.tensors);
  for (const [name, { shape, data }] of model.tensors)
    if (name.endsWith("mlp.gate.weight")) tensors.set(name, { shape, data: change(data, shape) });
  return new Qwen3(model.config, tensors);
}

/** A control: routers drawn anew, each with the mean and spread of the weights it had. */
export function randomRouters(model, seed) {
  const random = randomNumbers(seed);
  return withGates(model, (data) => {
    const mean = data.reduce((a, b) => a + b) / data.length;
    const spread = Math.sqrt(data.reduce((a, b) => a + (b - mean) ** 2, 0) / (data.length - 1));
    return data.map(() => mean + spread * // Box and Muller's way from uniform numbers to normal ones
      Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random()));
  });
}

/** Another: the rows of each router in another order, so that every token meets experts that learned from
    others. */
export function exchangedExperts(model, seed) {
  const random = randomNumbers(seed);
  return withGates(model, (data, [experts, size]) => {
    const order = Array.from({ length: experts }, (_, i) => [random(), i]).sort((a, b) => a[0] - b[0]);
    const moved = new Float32Array(data.length);
    order.forEach(([, from], to) => moved.set(data.subarray(from * size, (from + 1) * size), to * size));
    return moved;
  });
}
