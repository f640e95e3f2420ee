/* Qwen3's third telling: the whole model in plain JavaScript, after NumPy and PyTorch.

   Read it from top to bottom, as a text goes through it: a file of weights, a tokenizer, a chat template,
   the forward pass, one token drawn, a reply with a thinking budget. No library, nothing compiled. Names are
   those of the official config and checkpoint. Arrays are flat Float32Arrays; a comment beside each says the
   shape: t new tokens, s all tokens so far, h query heads, g key/value heads, d head_dim, D hidden_size,
   F intermediate_size, E num_experts, V vocab_size. All of it is
   held against the PyTorch model by `make test-book`. */

/** Something is wrong with a file or a text, and the message is a sentence for the reader of the page. */
export class Trouble extends Error {}

// -- the file of weights ---------------------------------------------------------------------------------

/** A safetensors file: eight bytes with the length of a JSON header, the header, the numbers.
    Map of name -> {shape, data}, data a Float32Array; bfloat16 is the upper half of a float32's bits. */
export function readSafetensors(buffer) {
  const cut = (need) => new Trouble(
    `model.safetensors is not whole: it ends after ${buffer.byteLength.toLocaleString("en")} bytes, and ` +
    `${need.toLocaleString("en")} are needed. Load the page again, or get the file anew.`);
  if (buffer.byteLength < 8) throw cut(8);
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  if (length > 100_000_000) throw new Trouble("model.safetensors is no safetensors file: get it anew.");
  if (buffer.byteLength < 8 + length) throw cut(8 + length);
  let header;
  try {
    header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  } catch {
    throw new Trouble("model.safetensors has a header that is no JSON: get the file anew.");
  }
  const tensors = new Map();
  delete header.__metadata__;
  for (const [name, { dtype, shape, data_offsets: [start, end] }] of Object.entries(header)) {
    if (buffer.byteLength < 8 + length + end) throw cut(8 + length + end);
    const bytes = buffer.slice(8 + length + start, 8 + length + end); // a copy, so that it is aligned
    if (dtype === "F32") {
      tensors.set(name, { shape, data: new Float32Array(bytes) });
    } else if (dtype === "BF16") {
      const upper = new Uint16Array(bytes), whole = new Uint32Array(upper.length);
      for (let i = 0; i < upper.length; i++) whole[i] = upper[i] << 16;
      tensors.set(name, { shape, data: new Float32Array(whole.buffer) });
    } else {
      throw new Trouble(`${name} is stored as ${dtype}; this page reads F32 and BF16.`);
    }
  }
  return tensors;
}

// -- the tokenizer ---------------------------------------------------------------------------------------

/* Where BPE must not merge across, alternatives tried from left to right. JavaScript's \s is not Unicode's
   White_Space (it has U+FEFF and lacks U+0085), and it has no (?i:...), under which U+017F is an s, too. */
export const PATTERN = new RegExp(
  "'(?:[sSſtTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])" + // English contractions
  "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+" + // a run of letters with the one character before it
  "|\\p{N}" + // each digit alone
  "| ?[^\\p{White_Space}\\p{L}\\p{N}]+[\\r\\n]*" + // punctuation, a space before and line ends after
  "|\\p{White_Space}*[\\r\\n]+" + // line ends
  "|\\p{White_Space}+(?!\\P{White_Space})|\\p{White_Space}+", // spaces; the last one is left to a word
  "gu");

/* GPT-2's printable stand-in for each byte: itself if it is printable Latin-1, else from U+0100 on. */
export const STAND_IN = [];
for (let byte = 0, next = 256; byte < 256; byte++) {
  const printable = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  STAND_IN.push(String.fromCharCode(printable ? byte : next++));
}
const BYTE_OF = new Map(STAND_IN.map((char, byte) => [char, byte]));

/** Byte-level BPE from the contents of a tokenizer.json. */
export class Tokenizer {
  constructor(json) {
    const pattern = json?.pre_tokenizer?.pretokenizers?.[0]?.pattern?.Regex;
    if (json?.model?.type !== "BPE" || json.normalizer?.type !== "NFC" || !pattern?.startsWith("(?i:'s|'t"))
      throw new Trouble("tokenizer.json is not one of Qwen3's kind, or not whole: get the file anew.");
    this.control = new Map(json.added_tokens.map((token) => [token.content, token.id]));
    this.vocab = new Map(Object.entries(json.model.vocab));
    this.ranks = new Map(); // "left right" -> rank; no stand-in is a space
    json.model.merges.forEach((pair, rank) => {
      this.ranks.set(typeof pair === "string" ? pair : `${pair[0]} ${pair[1]}`, rank);
    });
    this.names = []; // id -> its stand-ins, or its text if it is a control token
    for (const [name, id] of this.vocab) this.names[id] = name;
    for (const [name, id] of this.control) this.names[id] = name;
    this.controlIds = new Set(this.control.values());
    this.stopIds = new Set(["<|im_end|>", "<|endoftext|>"].map((name) => this.control.get(name)));
    this.known = new Map(); // words met before
    this.limit = Infinity; // of the merges only so many are used
    const longest = [...this.control.keys()].sort((a, b) => b.length - a.length);
    const quoted = longest.map((name) => name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    this.controlPattern = new RegExp(`(${quoted.join("|")})`);
  }

  /** The ids of a text. "<|im_end|>" and the like are plain characters unless `control`: what a user types
      must not end the user's turn. */
  encode(text, { control = false } = {}) {
    if (!text.isWellFormed?.() && /\p{Surrogate}/u.test(text))
      throw new Trouble("The text holds half of a character (a lone surrogate), which no vocabulary can " +
                        "spell: take it out.");
    if (control) {
      return text.split(this.controlPattern).filter(Boolean).flatMap(
        (piece) => this.control.has(piece) ? [this.control.get(piece)] : this.encode(piece));
    }
    return (text.normalize("NFC").match(PATTERN) ?? []).flatMap((word) => this.encodeWord(word));
  }

  encodeWord(word) {
    if (!this.known.has(word)) {
      if (this.known.size > 20_000) this.known.clear();
      this.known.set(word, this.merge(word).map((part) => this.vocab.get(part)));
    }
    return this.known.get(word);
  }

  /** BPE on one word: while any neighbours have a rank, join the pair of the lowest, from the left. */
  merge(word, onMerge) {
    let parts = Array.from(new TextEncoder().encode(word), (byte) => STAND_IN[byte]);
    for (;;) {
      let at = -1, least = Infinity;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
        if (rank < least && rank < this.limit) [at, least] = [i, rank];
      }
      if (at < 0) return parts;
      onMerge?.(at, least, parts);
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
  }

  /** The bytes behind one id; many are no valid UTF-8 on their own. */
  bytes(id) {
    const name = this.names[id];
    if (name === undefined) throw new Trouble(`Token id ${id} has no text in this vocabulary.`);
    if (this.controlIds.has(id)) return [...new TextEncoder().encode(name)];
    return Array.from(name, (char) => BYTE_OF.get(char));
  }

  /** The text of ids; bytes that are no valid UTF-8 become U+FFFD. */
  decode(ids) {
    const bytes = Uint8Array.from(Array.from(ids).flatMap((id) => this.bytes(id)));
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
  }
}

// -- the chat template -----------------------------------------------------------------------------------

/** The ids of a conversation, ready for a reply; messages {role, content, reasoning_content?} of system,
    user and assistant. Only the marks that the template itself writes are control tokens. The thoughts of
    turns before the last question are left out. Without thinking, the reply begins after an empty thought. */
export function encodeChat(tokenizer, messages, { thinking = true } = {}) {
  const ids = [];
  let text = ""; // joined until a mark comes: BPE merges across where a content begins or ends
  const say = (words) => { text += words; };
  const mark = (name) => {
    ids.push(...tokenizer.encode(text), tokenizer.control.get(name));
    text = "";
  };
  const think = (words) => {
    mark("<think>"); say(`\n${words}\n`); mark("</think>"); say("\n\n");
  };
  const last = messages.findLastIndex((message) => message.role === "user");
  const asked = last < 0 ? messages.length - 1 : last;
  messages.forEach(({ role, content, reasoning_content: thought }, i) => {
    if (!["system", "user", "assistant"].includes(role))
      throw new Trouble(`A message's role is ${role}; this page knows system, user and assistant.`);
    mark("<|im_start|>"); say(`${role}\n`);
    if (role === "assistant" && i > asked && (thought || i === messages.length - 1)) {
      think((thought ?? "").replace(/^\n+|\n+$/g, ""));
      say(content.replace(/^\n+/, ""));
    } else {
      say(content);
    }
    mark("<|im_end|>"); say("\n");
  });
  mark("<|im_start|>"); say("assistant\n");
  if (!thinking) think("");
  return [...ids, ...tokenizer.encode(text)];
}

// -- rotary positions ------------------------------------------------------------------------------------

/** Radians a token by which each of the d/2 pairs turns, and the factor on cos and sin (1 but for YaRN). */
export function frequencies(config) {
  const { head_dim: d, rope_theta: theta, rope_scaling: scaling } = config;
  const keep = Float64Array.from({ length: d / 2 }, (_, j) => theta ** (-2 * j / d));
  const kind = scaling?.rope_type ?? scaling?.type ?? "default";
  if (kind === "default") return { turns: keep, factor: 1 };
  if (kind === "linear") return { turns: keep.map((turn) => turn / scaling.factor), factor: 1 };
  if (kind !== "yarn") throw new Trouble(`rope_type ${kind} is not known here; use linear or yarn, or none.`);
  const original = scaling.original_max_position_embeddings;
  const stretch = scaling.factor ?? config.max_position_embeddings / original;
  const [low, high] = yarnRange(d, theta, original, scaling.beta_fast ?? 32, scaling.beta_slow ?? 1);
  // Pairs before `low` turn as they did, those behind `high` are slowed by the full factor.
  const turns = keep.map((turn, j) => {
    const slowed = Math.min(Math.max((j - low) / (high - low), 0), 1);
    return (1 - slowed) * turn + slowed * turn / stretch;
  });
  return { turns, factor: scaling.attention_factor ?? (stretch > 1 ? 0.1 * Math.log(stretch) + 1 : 1) };
}

/** The pairs between which YaRN blends: the one that makes 32 turns in the trained length, and 1 turn. */
export function yarnRange(d, theta, original, fast = 32, slow = 1) {
  const pair = (turns) => d * Math.log(original / (2 * Math.PI * turns)) / (2 * Math.log(theta));
  const low = Math.max(Math.floor(pair(fast)), 0), high = Math.min(Math.ceil(pair(slow)), d - 1);
  return [low, low === high ? high + 0.001 : high];
}

// -- the parts of a layer --------------------------------------------------------------------------------

/** out (t, rows) = x (t, columns) times the transpose of weight (rows, columns), as nn.Linear has it. Row by
    row, so that a row stays in the processor's nearest cache while all tokens meet it. */
function linear(x, weight, t, rows, columns, out = new Float32Array(t * rows)) {
  for (let r = 0; r < rows; r++) {
    const w = r * columns;
    for (let i = 0; i < t; i++) {
      const from = i * columns;
      let a = 0, b = 0, c = 0, e = 0; // four sums, which do not wait for one another
      let j = 0;
      for (; j + 3 < columns; j += 4) {
        a += weight[w + j] * x[from + j];
        b += weight[w + j + 1] * x[from + j + 1];
        c += weight[w + j + 2] * x[from + j + 2];
        e += weight[w + j + 3] * x[from + j + 3];
      }
      for (; j < columns; j++) a += weight[w + j] * x[from + j];
      out[i * rows + r] = a + b + (c + e);
    }
  }
  return out;
}

/** x / rms(x) * weight over each `size` numbers of x. */
function rmsNorm(x, weight, size, eps, out = new Float32Array(x.length)) {
  for (let from = 0; from < x.length; from += size) {
    let squares = 0;
    for (let j = 0; j < size; j++) squares += x[from + j] ** 2;
    const scale = 1 / Math.sqrt(squares / size + eps);
    for (let j = 0; j < size; j++) out[from + j] = x[from + j] * scale * weight[j];
  }
  return out;
}

/** RoPE in place, half-split: channel j turns with channel j + d/2. x (t, heads, d), from position start. */
function rotate(x, t, heads, d, start, { turns, factor }) {
  const half = d / 2;
  for (let i = 0; i < t; i++) {
    for (let j = 0; j < half; j++) {
      const angle = (start + i) * turns[j]; // in float64: rounded angles would be off far out
      const cos = Math.cos(angle) * factor, sin = Math.sin(angle) * factor;
      for (let head = 0; head < heads; head++) {
        const at = (i * heads + head) * d + j, first = x[at], second = x[at + half];
        x[at] = first * cos - second * sin;
        x[at + half] = second * cos + first * sin;
      }
    }
  }
}

/** x to probabilities in place, from `from` on, n numbers. */
function softmax(x, from = 0, n = x.length) {
  let most = -Infinity, sum = 0;
  for (let i = from; i < from + n; i++) most = Math.max(most, x[i]);
  for (let i = from; i < from + n; i++) sum += x[i] = Math.exp(x[i] - most);
  for (let i = from; i < from + n; i++) x[i] /= sum;
  return x;
}

/** down(silu(gate x) * up x), x (t, D) -> (t, D). */
function swiglu(x, t, D, F, gate, up, down, see) {
  const inner = linear(x, gate, t, F, D), other = linear(x, up, t, F, D);
  see?.("gate_proj", inner, [t, F]);
  see?.("up_proj", other, [t, F]);
  for (let i = 0; i < inner.length; i++) inner[i] = inner[i] / (1 + Math.exp(-inner[i])) * other[i];
  see?.("silu(gate) * up", inner, [t, F]);
  return linear(inner, down, t, D, F);
}

/** The router's choice from logits (E): softmax over all experts first, the best top_k second, of equals
    the lower index; weights that sum to one again if asked. [{expert, weight}], best first. */
export function route(logits, topK, normalize) {
  const p = softmax(Float64Array.from(logits));
  const chosen = Array.from(p.keys()).sort((a, b) => p[b] - p[a] || a - b).slice(0, topK);
  const sum = normalize ? chosen.reduce((total, expert) => total + p[expert], 0) : 1;
  return chosen.map((expert) => ({ expert, weight: p[expert] / sum }));
}

// -- the model -------------------------------------------------------------------------------------------

/** Keys and values of the tokens read so far: per layer (length, g d) each. To forget the end of a text, make
    `length` smaller: what comes next is written over it. */
export class Cache {
  constructor(config) {
    this.size = config.num_key_value_heads * config.head_dim;
    this.layers = Array.from({ length: config.num_hidden_layers }, () => ({
      keys: new Float32Array(64 * this.size), values: new Float32Array(64 * this.size) }));
    this.length = 0;
  }

  append(layer, keys, values) {
    const held = this.layers[layer], end = this.length * this.size + keys.length;
    for (const [name, what] of [["keys", keys], ["values", values]]) {
      if (held[name].length < end) {
        const larger = new Float32Array(2 * end);
        larger.set(held[name].subarray(0, this.length * this.size));
        held[name] = larger;
      }
      held[name].set(what, this.length * this.size);
    }
    return held;
  }
}

/** Qwen3, dense or with experts, from the contents of config.json and the tensors of readSafetensors. */
export class Qwen3 {
  constructor(config, tensors) {
    this.config = config;
    this.tensors = tensors;
    const c = config, D = c.hidden_size, q = c.num_attention_heads * c.head_dim;
    const kv = c.num_key_value_heads * c.head_dim;
    this.rope = frequencies(c);
    this.embedding = this.take("model.embed_tokens.weight", c.vocab_size, D);
    this.norm = this.take("model.norm.weight", D);
    this.head = c.tie_word_embeddings ? this.embedding : this.take("lm_head.weight", c.vocab_size, D);
    this.layers = Array.from({ length: c.num_hidden_layers }, (_, i) => {
      const at = (name, ...shape) => this.take(`model.layers.${i}.${name}.weight`, ...shape);
      const feed = (name, F) => ({ F, gate: at(`${name}.gate_proj`, F, D), up: at(`${name}.up_proj`, F, D),
                                   down: at(`${name}.down_proj`, D, F) });
      const sparse = c.num_experts > 0 && !(c.mlp_only_layers ?? []).includes(i) &&
        (i + 1) % (c.decoder_sparse_step ?? 1) === 0;
      return {
        inputNorm: at("input_layernorm", D), postNorm: at("post_attention_layernorm", D),
        q: at("self_attn.q_proj", q, D), k: at("self_attn.k_proj", kv, D), v: at("self_attn.v_proj", kv, D),
        o: at("self_attn.o_proj", D, q),
        qNorm: at("self_attn.q_norm", c.head_dim), kNorm: at("self_attn.k_norm", c.head_dim),
        mlp: sparse ? null : feed("mlp", c.intermediate_size),
        gate: sparse ? at("mlp.gate", c.num_experts, D) : null,
        experts: sparse ? Array.from({ length: c.num_experts }, (_, e) =>
          feed(`mlp.experts.${e}`, c.moe_intermediate_size)) : null,
      };
    });
  }

  /** The numbers of a tensor, which must be there and of this shape. */
  take(name, ...shape) {
    const found = this.tensors.get(name);
    if (!found) throw new Trouble(`model.safetensors lacks ${name}: it belongs to another config.json.`);
    if (found.shape.join() !== shape.join())
      throw new Trouble(`${name} has the shape ${found.shape.join(" × ")}, and config.json asks for ` +
                        `${shape.join(" × ")}: the files do not belong together.`);
    return found.data;
  }

  /** A model of the same weights under a changed config, such as another rope_scaling. */
  with(changes) {
    return new Qwen3({ ...this.config, ...changes }, this.tensors);
  }

  /** Read ids behind what the cache holds, and return the logits (V) of what may follow the last; with `all`
      those of every id, (t, V). `see(name, layer, data, shape)` is shown each step on its way. */
  forward(ids, cache = new Cache(this.config), { all = false, see } = {}) {
    const c = this.config, D = c.hidden_size, t = ids.length, eps = c.rms_norm_eps, start = cache.length;
    const x = new Float32Array(t * D); // the residual stream, (t, D)
    ids.forEach((id, i) => x.set(this.embedding.subarray(id * D, (id + 1) * D), i * D));
    see?.("embed_tokens", -1, x, [t, D]);
    this.layers.forEach((layer, i) => {
      const tell = see && ((name, data, shape) => see(name, i, data, shape));
      const attended = this.attend(layer, i, rmsNorm(x, layer.inputNorm, D, eps), t, cache, tell);
      for (let j = 0; j < x.length; j++) x[j] += attended[j];
      tell?.("+ attention", x, [t, D]);
      const normed = rmsNorm(x, layer.postNorm, D, eps);
      tell?.("post_attention_layernorm", normed, [t, D]);
      const fed = layer.experts ? this.mix(layer, normed, t, tell)
        : swiglu(normed, t, D, layer.mlp.F, layer.mlp.gate, layer.mlp.up, layer.mlp.down, tell);
      tell?.("down_proj", fed, [t, D]);
      for (let j = 0; j < x.length; j++) x[j] += fed[j];
      tell?.("+ feed-forward", x, [t, D]);
    });
    cache.length = start + t;
    const from = all ? 0 : t - 1;
    const last = rmsNorm(x.subarray(from * D), this.norm, D, eps);
    see?.("norm", c.num_hidden_layers, last, [t - from, D]);
    const logits = linear(last, this.head, t - from, c.vocab_size, D);
    see?.("lm_head", c.num_hidden_layers, logits, [t - from, c.vocab_size]);
    return logits;
  }

  /** Grouped-query attention with QK-Norm and RoPE: query head i reads key/value head floor(i g / h). */
  attend(layer, index, x, t, cache, tell) {
    const c = this.config, D = c.hidden_size, d = c.head_dim, eps = c.rms_norm_eps;
    const heads = c.num_attention_heads, groups = c.num_key_value_heads, start = cache.length;
    tell?.("input_layernorm", x, [t, D]);
    const q = linear(x, layer.q, t, heads * d, D), k = linear(x, layer.k, t, groups * d, D);
    const v = linear(x, layer.v, t, groups * d, D);
    tell?.("q_proj", q, [t, heads, d]); tell?.("k_proj", k, [t, groups, d]);
    tell?.("v_proj", v, [t, groups, d]);
    rmsNorm(q, layer.qNorm, d, eps, q); rmsNorm(k, layer.kNorm, d, eps, k);
    tell?.("q_norm", q, [t, heads, d]); tell?.("k_norm", k, [t, groups, d]);
    rotate(q, t, heads, d, start, this.rope); rotate(k, t, groups, d, start, this.rope);
    tell?.("q rotated", q, [t, heads, d]); tell?.("k rotated", k, [t, groups, d]);
    const { keys, values } = cache.append(index, k, v), wide = groups * d, s = start + t;
    const weights = tell ? new Float32Array(heads * t * s) : null; // (h, t, s), for those who look
    const out = new Float32Array(t * heads * d), scores = new Float32Array(s);
    for (let i = 0; i < t; i++) {
      const seen = start + i + 1; // a token looks at itself and at all before it
      for (let head = 0; head < heads; head++) {
        const query = (i * heads + head) * d, group = Math.floor(head * groups / heads) * d;
        for (let j = 0; j < seen; j++) {
          const key = j * wide + group;
          let a = 0, b = 0;
          for (let n = 0; n < d; n += 2) {
            a += q[query + n] * keys[key + n];
            b += q[query + n + 1] * keys[key + n + 1];
          }
          scores[j] = (a + b) / Math.sqrt(d);
        }
        softmax(scores, 0, seen);
        weights?.set(scores.subarray(0, seen), (head * t + i) * s);
        for (let j = 0; j < seen; j++) {
          const weight = scores[j], value = j * wide + group;
          for (let n = 0; n < d; n++) out[query + n] += weight * values[value + n];
        }
      }
    }
    tell?.("attention", weights, [heads, t, s]);
    tell?.("heads", out, [t, heads, d]);
    const mixed = linear(out, layer.o, t, D, heads * d);
    tell?.("o_proj", mixed, [t, D]);
    return mixed;
  }

  /** Mixture of experts: each token is the weighted sum of what its few experts make of it. */
  mix(layer, x, t, tell) {
    const c = this.config, D = c.hidden_size, out = new Float32Array(t * D);
    const logits = linear(x, layer.gate, t, c.num_experts, D);
    tell?.("gate", logits, [t, c.num_experts]);
    for (let i = 0; i < t; i++) {
      const own = x.subarray(i * D, (i + 1) * D);
      const scores = logits.subarray(i * c.num_experts, (i + 1) * c.num_experts);
      for (const { expert, weight } of route(scores, c.num_experts_per_tok, c.norm_topk_prob)) {
        const { F, gate, up, down } = layer.experts[expert];
        const made = swiglu(own, 1, D, F, gate, up, down);
        for (let j = 0; j < D; j++) out[i * D + j] += weight * made[j];
      }
    }
    return out;
  }
}

// -- from logits to a token ------------------------------------------------------------------------------

/** The distribution (V) that the next token is drawn from: temperature, then top_k, top_p, min_p, in
    transformers' order. temperature 0 is greedy. `absent`: ids from there on have no text and never come. */
export function distribution(logits, sampling = {}, absent = logits.length) {
  const { temperature = 0, top_k: topK = 0, top_p: topP = 1, min_p: minP = 0 } = sampling;
  const x = Float64Array.from(logits).fill(-Infinity, absent);
  const greatest = largest(x);
  if (!Number.isFinite(x[greatest])) throw new Trouble("The logits are not finite: a file is damaged.");
  if (temperature === 0) return x.fill(0).fill(1, greatest, greatest + 1);
  const top = x[greatest];
  for (let i = 0; i < x.length; i++) x[i] = (x[i] - top) / temperature;
  const best = Array.from(x.keys()).sort((a, b) => x[b] - x[a] || a - b);
  if (topK > 0 && topK < x.length) {
    const least = x[best[topK - 1]]; // who ties with the k-th stays too
    for (let i = 0; i < x.length; i++) if (x[i] < least) x[i] = -Infinity;
  }
  softmax(x);
  if (topP < 1) {
    let before = 0; // the token that crosses top_p is kept
    for (const id of best) {
      const own = x[id];
      if (before >= topP) x[id] = 0;
      before += own;
    }
    rescale(x);
  }
  if (minP > 0) {
    const least = minP * x[best[0]];
    for (let i = 0; i < x.length; i++) if (x[i] < least) x[i] = 0;
  }
  return rescale(x);
}

function rescale(p) {
  const sum = p.reduce((total, value) => total + value, 0);
  for (let i = 0; i < p.length; i++) p[i] /= sum;
  return p;
}

/** Where the largest number is, the first of equals. */
export function largest(x) {
  let best = 0;
  for (let i = 1; i < x.length; i++) if (x[i] > x[best]) best = i;
  return best;
}

/** The id at which the running sum of p passes u, a uniform number below 1. */
export function draw(p, u) {
  const aim = u * p.reduce((total, value) => total + value, 0);
  let sum = 0, last = 0;
  for (let i = 0; i < p.length; i++) {
    sum += p[i];
    if (p[i] > 0) last = i;
    if (sum > aim) return i;
  }
  return last;
}

/** Uniform numbers in [0, 1) from a seed, the same in every browser (mulberry32, by Tommy Ettinger). */
export function randomNumbers(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let z = Math.imul(state ^ (state >>> 15), state | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 4294967296;
  };
}

// -- a reply, with its thought and its budget ------------------------------------------------------------

/** Write on, one id at a time: yields {id, part, forced, probability}. "mark" opens or closes a thought,
    "reasoning" is in it, "answer" outside, "end" the stop id. When the model wants one more id than `budget`
    in its thought, `earlyStop` is fed instead, and the answer follows; null never cuts. */
export function* generate(model, tokenizer, prompt, options = {}) {
  const { maxNewTokens = 256, sampling = {}, random = randomNumbers(0), budget = null,
          earlyStop = "\n</think>\n\n", cache = new Cache(model.config) } = options;
  const { control, stopIds } = tokenizer, opening = control.get("<think>"), closing = control.get("</think>");
  const call = control.get("<tool_call>"), endCall = control.get("</tool_call>");
  const turn = prompt.slice(prompt.lastIndexOf(control.get("<|im_start|>")) + 1);
  let inside = turn.lastIndexOf(opening) > turn.lastIndexOf(closing), inCall = false, spent = 0;
  const room = Math.min(maxNewTokens, model.config.max_position_embeddings - prompt.length);
  if (room < 1)
    throw new Trouble(`The text has ${prompt.length} tokens, and the model reads ` +
                      `${model.config.max_position_embeddings}: make it shorter.`);
  const forced = [];
  let logits = model.forward(prompt.slice(cache.length), cache);
  for (let n = 0; n < room; n++) {
    const p = distribution(logits, sampling, tokenizer.names.length);
    let id = sampling.temperature > 0 ? draw(p, random()) : largest(p);
    if (budget !== null && inside && !forced.length && spent >= budget && id !== closing)
      forced.push(...tokenizer.encode(earlyStop, { control: true })); // the id drawn is dropped
    const fed = forced.length > 0;
    if (fed) id = forced.shift();
    const stops = stopIds.has(id) && !fed;
    let part = "answer";
    if (stops) part = "end";
    else if (inside) {
      part = id === closing ? "mark" : "reasoning";
      inside = part === "reasoning";
      if (inside && !fed) spent++;
    } else if (id === opening && !inCall) {
      part = "mark";
      inside = true;
    } else {
      inCall = id === call || (inCall && id !== endCall);
    }
    yield { id, part, forced: fed, probability: fed ? null : softmax(Float64Array.from(logits))[id] };
    if (stops) return;
    if (n + 1 < room) logits = model.forward([id], cache);
  }
}
