/* What a model needs in memory, as qwen3_ref/memory.py counts it; bytes throughout. */

const KV_BITS = { bf16: 16, fp8: 8, int8: 8, int4: 4 }; // integers have a 16-bit scale a vector beside them
const CHUNK = 2048; // tokens that an engine reads of a prompt at a time
const USABLE = 0.9; // the share of a card that engines give to a model

/** The KV cache of `batch` texts of `length` tokens. */
export function cacheBytes(model, length, batch, kind) {
  const numbers = 2 * model.num_hidden_layers * model.num_key_value_heads * model.head_dim * length * batch;
  return Math.round(numbers * (KV_BITS[kind] + (kind.startsWith("int") ? 16 / model.head_dim : 0)) / 8);
}

/** What is alive at once inside a pass: an estimate. */
export function activationBytes(model, length, batch) {
  const attention = 2 * (model.num_attention_heads + model.num_key_value_heads) * model.head_dim;
  const forward = 3 * (model.num_experts ? model.num_experts_per_tok * model.moe_intermediate_size
    : model.intermediate_size);
  const tokens = Math.min(length, CHUNK) * Math.min(batch, 1);
  return 2 * tokens * (2 * model.hidden_size + Math.max(attention, forward)) + 4 * batch * model.vocab_size;
}

/** {weights, cache, activations, total}. */
export function need(model, length, batch, kind, cacheKind) {
  const parts = { weights: model.weights[kind], cache: cacheBytes(model, length, batch, cacheKind),
                  activations: activationBytes(model, length, batch) };
  return { ...parts, total: parts.weights + parts.cache + parts.activations };
}

/** The fewest cards for tensor parallelism, as many as divide the query heads; null if even one a head is too
    few. KV heads are copied where there are fewer of them than cards. */
export function cardsNeeded(model, wanted, card) {
  for (let n = 1; n <= model.num_attention_heads; n++) {
    const copies = Math.max(1, n / model.num_key_value_heads);
    const held = wanted.total + (copies - 1) * wanted.cache;
    if (model.num_attention_heads % n === 0 && held <= n * card.memory * USABLE) return n;
  }
  return null;
}

/** The most that memory's bandwidth allows one text: each token reads the weights it uses and the cache. */
export function tokensPerSecond(model, length, card, n, kind, cacheKind) {
  return n * card.bandwidth / (model.read[kind] + cacheBytes(model, length, 1, cacheKind));
}
