"""Who tells a head what: heads of a small model silenced, and single messages between them exchanged.

The prompts are look-ups: lines of `key=digits`, then a key whose digits are due. A second prompt of each
asks for another line, or has the two keys changed about. *Path patching* computes one part of one head, the
finder, as if some heads below it had read the second prompt, and leaves all the rest of the first as it
was: if the answer changes, the finder goes by what those heads wrote (arXiv 2304.05969).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qwen3_ref.model import Qwen3, causal_mask, eager_attention, rope_tables, rotate, token_positions
from qwen3_ref.tokenizer import Tokenizer

Head = tuple[int, int]
"""(layer, query head)."""


def padded(texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids and real (b, t), padded on the left."""
    width = max(map(len, texts))
    ids = torch.tensor([[0] * (width - len(text)) + list(text) for text in texts])
    return ids, torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts])


def asked_line(ids: Sequence[int]) -> int:
    """Column where the asked line begins: the text ends with a copy of it, five tokens long."""
    return next(i for i in range(len(ids)) if ids[i : i + 5] == ids[-5:])


def another_line(ids: Sequence[int], tok: Tokenizer) -> int:
    """Column of the first line, two tokens of key and two digits, whose first digit is not the asked one."""
    (newline,), (equals,) = tok.encode("\n"), tok.encode("=")
    digits, at = {tok.encode(str(number))[0] for number in range(10)}, asked_line(ids)
    return next(
        i for i in range(len(ids) - 10)
        if (i == 0 or ids[i - 1] == newline) and (ids[i + 2], ids[i + 5]) == (equals, newline)
        and {ids[i + 3], ids[i + 4]} <= digits and ids[i + 3] != ids[at + 3]
    )  # fmt: skip


def put(ids: Sequence[int], *places: tuple[int, Sequence[int]]) -> list[int]:
    """A copy of ids with other tokens at some places: (column, tokens)."""
    copy = list(ids)
    for column, tokens in places:
        copy[column : column + len(tokens)] = tokens
    return copy


class Joints:
    """A model with its joints exposed: the stream at the input of every layer, what each head reads and
    what it says, and a way to replace any of them. real (b, t): which columns are tokens."""

    def __init__(self, net: Qwen3, real: Tensor) -> None:
        self.net, c = net, net.config
        self.layers, self.heads, self.head_dim = c.num_hidden_layers, c.num_attention_heads, c.head_dim
        self.seen = causal_mask(real.bool(), 0)[:, None]
        turn = net.model.inv_freq, net.model.rope_factor, torch.float32
        self.tables = rope_tables(token_positions(real.bool(), 0), *turn)

    def parts(self, layer: int, x: Tensor) -> dict[str, Tensor]:
        """What the heads of a layer read from the stream x (b, t, D): "q", "k", "v", (b, h, t, d) each."""
        block: Any = self.net.model.layers[layer]
        att, x = block.self_attn, block.input_layernorm(x)
        q, k, v = (
            project(x).view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)
            for project in (att.q_proj, att.k_proj, att.v_proj)
        )
        q, k = rotate(att.q_norm(q), *self.tables), rotate(att.k_norm(k), *self.tables)
        group = self.heads // k.shape[1]
        return {"q": q, "k": k.repeat_interleave(group, dim=1), "v": v.repeat_interleave(group, dim=1)}

    @torch.inference_mode()
    def flow(
        self,
        x: Tensor,
        first: int = 0,
        last: int | None = None,
        said: Mapping[int, Tensor] | None = None,
        swap: tuple[str, list[int], Tensor] | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """From the stream x at the input of layer `first` -> the inputs of the layers up to `last`, and what
        their heads say, (b, h, t, d) a layer.

        said: by layer, in place of what its heads would say. swap: (part, heads, values), what some heads
        of layer `first` read instead."""
        streams, voices = [x], []
        for layer in range(first, self.layers if last is None else last):
            block: Any = self.net.model.layers[layer]
            read = self.parts(layer, x)
            if swap and layer == first:
                read[swap[0]][:, swap[1]] = swap[2][:, swap[1]]
            voices.append(eager_attention(read["q"], read["k"], read["v"], self.seen)[0])
            if said and layer in said:
                voices[-1] = said[layer]
            x = x + block.self_attn.o_proj(voices[-1].transpose(1, 2).flatten(2))
            x = x + block.mlp(block.post_attention_layernorm(x))
            streams.append(x)
        return streams, voices

    @torch.inference_mode()
    def next_logits(self, streams: Sequence[Tensor]) -> Tensor:
        """Logits (b, V) of the token after the prompt, from the output of the last layer."""
        return self.net.head(self.net.model.norm(streams[-1][:, -1]))


class LookUps(Joints):
    """Look-ups of a model, up to where the first digit is due, and what changes when heads are meddled with.

    rows: ids of look-ups that end in the asked line, five tokens long. finder: the head whose messages are
    in question. prompts: "plain", "k" with the asked key and that of another line changed about, "q" with
    the other key asked for. `lead`: the logit of the asked line's digit less that of the other line's."""

    def __init__(self, net: Qwen3, tok: Tokenizer, rows: Sequence[list[int]], finder: Head) -> None:
        lines = [(ids, asked_line(ids), another_line(ids, tok)) for ids in rows]
        self.prompts = {
            "plain": [ids[:-2] for ids in rows],
            "k": [put(ids, (a, ids[b : b + 2]), (b, ids[a : a + 2]))[:-2] for ids, a, b in lines],
            "q": [put(ids, (len(ids) - 5, ids[b : b + 2]))[:-2] for ids, a, b in lines],
        }
        super().__init__(net, padded(self.prompts["plain"])[1])
        self.finder = finder
        self.due = torch.tensor([ids[-2] for ids in rows])
        self.other = torch.tensor([ids[b + 3] for ids, a, b in lines])
        self.below = [(layer, head) for layer in range(finder[0]) for head in range(self.heads)]
        streams, self.told, self.leads = {}, {}, {}  # told: by prompt, what all heads say of it
        for name, texts in self.prompts.items():
            with torch.inference_mode():
                begun = net.model.embed_tokens(padded(texts)[0])
            streams[name], self.told[name] = self.flow(begun)
            self.leads[name] = self.lead(self.next_logits(streams[name]))
        self.streams = streams["plain"]

    def lead(self, logits: Tensor) -> Tensor:
        each = torch.arange(len(logits))
        return logits[each, self.due] - logits[each, self.other]

    def right_without(self, head: Head) -> float:
        """Share of first digits right while one head says nothing."""
        layer, number = head
        said = self.told["plain"][layer].clone()
        said[:, number] = 0
        logits = self.next_logits(self.flow(self.streams[layer], first=layer, said={layer: said})[0])
        return float((logits.argmax(-1) == self.due).float().mean())

    def patched(self, part: str, senders: Sequence[Head], told: Sequence[Tensor] | None = None) -> Tensor:
        """The lead (b,) when `part` of the finder is computed as if `senders` had said what they say in
        `told`, by default of the prompt of that part; all other heads below say what they said."""
        voices = self.told[part] if told is None else told
        said = {layer: self.told["plain"][layer].clone() for layer in range(self.finder[0])}
        for layer, head in senders:
            said[layer][:, head] = voices[layer][:, head]
        layer, head = self.finder
        stream = self.flow(self.streams[0], last=layer, said=said)[0][-1]
        with torch.inference_mode():
            swap = (part, [head], self.parts(layer, stream)[part])
        return self.lead(self.next_logits(self.flow(self.streams[layer], first=layer, swap=swap)[0]))

    def relayed(self, senders: Sequence[Head], writers: Sequence[Head]) -> Tensor:
        """The lead (b,) when the writers, of layer 1, fetch values as if `senders` of layer 0 had read the
        changed keys, and only the writers' words pass on to the finder's keys."""
        said = self.told["plain"][0].clone()
        for _, head in senders:
            said[:, head] = self.told["k"][0][:, head]
        stream = self.flow(self.streams[0], last=1, said={0: said})[0][-1]
        with torch.inference_mode():
            swap = ("v", [head for _, head in writers], self.parts(1, stream)["v"])
        voices = self.flow(self.streams[1], first=1, last=2, swap=swap)[1]
        return self.patched("k", writers, [self.told["k"][0], voices[0]])

    def swing(self, result: Tensor, part: str) -> NDArray[np.float64]:
        """Share of the full swing, from the plain prompt to that of `part`: mean over the prompts, and the
        ends of a 95% interval from a bootstrap of prompts. In whole percent."""
        full = (self.leads["plain"] - self.leads[part]).mean()
        share = ((self.leads["plain"] - result) / full).double().numpy()
        draws = np.random.default_rng(7).integers(len(share), size=(2000, len(share)))
        means = share[draws].mean(axis=1)
        return np.round([share.mean(), *np.quantile(means, (0.025, 0.975))], 2)
