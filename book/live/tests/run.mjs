/* What the tests ask of qwen3.js, in node: a list of jobs as JSON on the standard input, answers on the output. */

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const { module, thought, jobs } = JSON.parse(readFileSync(0, "utf8"));
const q = await import(pathToFileURL(module));

const bytes = (path) => {
  const file = readFileSync(path);
  return file.buffer.slice(file.byteOffset, file.byteOffset + file.length);
};
const json = (path) => JSON.parse(readFileSync(path, "utf8"));
const models = new Map(), tokenizers = new Map();

function model({ folder, changes = {} }) {
  const key = folder + JSON.stringify(changes);
  if (!models.has(key)) {
    const config = { ...json(`${folder}/config.json`), ...changes };
    models.set(key, new q.Qwen3(config, q.readSafetensors(bytes(`${folder}/model.safetensors`))));
  }
  return models.get(key);
}

function tokenizer({ folder }) {
  if (!tokenizers.has(folder)) tokenizers.set(folder, new q.Tokenizer(json(`${folder}/tokenizer.json`)));
  return tokenizers.get(folder);
}

const does = {
  /** Greedy or budgeted replies to prompts of ids. */
  generate: (job) => job.prompts.map((prompt, i) => {
    const options = { maxNewTokens: job.maxNewTokens, budget: job.budgets?.[i] ?? null };
    return [...q.generate(model(job), tokenizer(job), prompt, options)];
  }),
  /** Logits of every position, all at once and again piece by piece through the cache. */
  logits: (job) => job.texts.map((ids) => {
    const whole = model(job).forward(ids, undefined, { all: true });
    const cache = new q.Cache(model(job).config), pieces = [];
    for (let at = 0, n = 1; at < ids.length; at += n, n++)
      pieces.push(...model(job).forward(ids.slice(at, at + n), cache, { all: true }));
    return { whole: Array.from(whole), pieces };
  }),
  /** The choices of the routers and the weights of attention of one text. */
  trace: (job) => {
    const attention = [], experts = [], c = model(job).config;
    model(job).forward(job.ids, undefined, { see: (name, layer, data, shape) => {
      if (name === "attention") attention.push({ shape, data: Array.from(data) });
      if (name === "gate") experts.push(job.ids.map((_, i) => q.route(
        data.subarray(i * c.num_experts, (i + 1) * c.num_experts), c.num_experts_per_tok, c.norm_topk_prob)));
    } });
    return { attention, experts };
  },
  encode: (job) => job.texts.map((text) => {
    const ids = tokenizer(job).encode(text, { control: job.control });
    return { ids, back: tokenizer(job).decode(ids) };
  }),
  decode: (job) => job.rows.map((ids) => tokenizer(job).decode(ids)),
  chat: (job) => job.talks.map(([messages, thinking]) => q.encodeChat(tokenizer(job), messages, { thinking })),
  distribution: (job) => job.rows.map(({ logits, sampling, u }) => {
    const p = q.distribution(logits, sampling);
    return { p: Array.from(p), id: q.draw(p, u) };
  }),
  frequencies: (job) => job.configs.map((config) => {
    const { turns, factor } = q.frequencies(config);
    return { turns: Array.from(turns), factor };
  }),
  /** A thought and its answers under budgets, as the budget page has them. */
  thoughts: async (job) => {
    const { Thought } = await import(pathToFileURL(thought));
    return job.questions.map((question) => {
      const one = new Thought({ model: model(job), tokenizer: tokenizer(job) }, question);
      [...one.think()];
      return job.budgets.map((budget) => one.answer(one.under(budget)));
    });
  },
  lookUp: async (job) => {
    const { lookUp } = await import(pathToFileURL(`${job.live}/lookup.js`));
    return lookUp(model(job), tokenizer(job), job.list);
  },
  makeList: async (job) => (await import(pathToFileURL(`${job.live}/lookup.js`)))
    .makeList(tokenizer(job), job.length, job.seed),
  memory: async (job) => {
    const sums = await import(pathToFileURL(`${job.folder}/sums.js`));
    const { CARDS, MODELS } = await import(pathToFileURL(`${job.folder}/models.js`));
    return job.rows.map(({ model: name, length, batch, kind, cache, card }) => {
      const own = MODELS[name], wanted = sums.need(own, length, batch, kind, cache);
      const n = sums.cardsNeeded(own, wanted, CARDS[card]);
      return { total: wanted.total, cards: n,
               speed: sums.tokensPerSecond(own, length, CARDS[card], n ?? 1, kind, cache) };
    });
  },
  specialisation: async (job) =>
    (await import(pathToFileURL(`${job.folder}/experts.js`))).specialisation(job.counts),
  /** Reading what is no whole checkpoint. */
  broken: (job) => job.cases.map(({ folder, keep = null, drop = null, changes = {}, tokens = null, text = "" }) => {
    try {
      let buffer = bytes(`${folder}/model.safetensors`);
      if (keep !== null) buffer = buffer.slice(0, keep);
      const tensors = q.readSafetensors(buffer);
      if (drop) tensors.delete(drop);
      new q.Qwen3({ ...json(`${folder}/config.json`), ...changes }, tensors);
      new q.Tokenizer(tokens ?? json(`${folder}/tokenizer.json`)).encode(text);
      return null;
    } catch (error) {
      return { kind: error.constructor.name, message: error.message };
    }
  }),
  /** Tokens that are written in a second of processor time, behind a prompt of 100: the best of five rounds. */
  speed: (job) => {
    const one = model(job), prompt = Array.from({ length: 100 }, (_, i) => (i * 7) % 1000);
    let best = 0;
    for (let round = 0; round < 5; round++) {
      const cache = new q.Cache(one.config);
      let id = q.largest(one.forward(prompt, cache));
      const began = process.cpuUsage();
      for (let n = 0; n < 100; n++) id = q.largest(one.forward([id], cache));
      const { user, system } = process.cpuUsage(began);
      best = Math.max(best, 100 * 1e6 / (user + system));
    }
    return best;
  },
  random: (job) => {
    const random = q.randomNumbers(job.seed);
    return Array.from({ length: job.count }, () => random());
  },
};

const answers = [];
for (const job of jobs) answers.push(await does[job.does](job));
process.stdout.write(JSON.stringify(answers));
