"""The memory calculator against published sizes. (What the design card said of memory: test_ledger.)"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from qwen3_ref import memory
from qwen3_ref.commands.line import main
from qwen3_ref.config import Qwen3Config

GB = 1e9
NAMED = Qwen3Config.named
CARDS = memory.cards()
# GPU memory in MiB at one token, by Qwen3's own speed benchmark (transformers): bf16, FP8, AWQ-int4.
PUBLISHED = {
    "Qwen3-4B": (7973, None, 2915),
    "Qwen3-8B": (15947, 9323, 6177),
    "Qwen3-14B": (28402, 16012, 9962),
    "Qwen3-32B": (62751, 33379, 19109),
    "Qwen3-30B-A3B": (58462, 30296, None),
}


@pytest.mark.parametrize("name", [*PUBLISHED])
def test_weights_are_what_was_measured_less_the_engine(name: str) -> None:
    """Measured is the arithmetic and 220 to 700 MiB of the engine's own."""
    for kind, measured in zip(("bf16", "fp8", "int4-g128"), PUBLISHED[name], strict=True):
        if measured is not None:
            assert 220 <= measured - memory.weight_bytes(NAMED(name), kind) / 2**20 <= 700, kind


def test_formats_by_hand() -> None:
    c = Qwen3Config(
        vocab_size=1000, hidden_size=128, intermediate_size=256, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=128, rope_theta=1e4, tie_word_embeddings=True,
    )  # fmt: skip
    matrices = 4 * 128 * 128 + 3 * 128 * 256
    rest = c.num_parameters() - matrices
    assert memory.weight_bytes(c, "bf16") == 2 * (matrices + rest)
    assert memory.weight_bytes(c, "fp8") == matrices + 4 * (4 + 6) + 2 * rest
    assert memory.weight_bytes(c, "int4-g128") == matrices * 4.15625 / 8 + 2 * rest
    assert memory.weight_bytes(c, "int8") == matrices + 2 * (4 * 128 + 2 * 256 + 128) + 2 * rest


def test_routers_are_never_counted_as_rounded() -> None:
    c = NAMED("Qwen3-30B-A3B")
    routers = c.num_hidden_layers * 128 * c.hidden_size
    fewer = replace(c, num_experts=127)
    one = memory.weight_bytes(c, "fp8") - memory.weight_bytes(fewer, "fp8")
    expert = 3 * c.hidden_size * 768
    assert one == c.num_hidden_layers * (expert + 4 * 3 * 96 + 2 * routers // 48 // 128)


def test_caches() -> None:
    """8B at 32,768 tokens: 4.83 GB, a half of it in int8 and 1.36 at 4.5 bits."""
    c = NAMED("Qwen3-8B")
    sizes = {kind: memory.kv_bytes(c, 32_768, kind=kind) / GB for kind in memory.KV_FORMATS}
    assert sizes["bf16"] == pytest.approx(4.83, abs=0.005) and sizes["fp8"] == sizes["bf16"] / 2
    assert sizes["int8"] == pytest.approx(2.42 + 2.42 / 64, abs=0.01)
    assert sizes["int4"] == pytest.approx(1.36 * 4.125 / 4.5, abs=0.02)
    assert memory.kv_bytes(c, 100, 7) == 7 * memory.kv_bytes(c, 100)
    narrow = replace(c, head_dim=64)  # a scale for each vector weighs twice as much on shorter ones
    assert memory.kv_bytes(narrow, 1, kind="int8") == 36 * 8 * 2 * (64 + 2)
    assert memory.kv_bytes(narrow, 1, kind="int4") == 36 * 8 * 2 * (32 + 2)


def test_activations_do_not_grow_beyond_a_chunk() -> None:
    c = NAMED("Qwen3-8B")
    assert memory.activation_bytes(c, 2048) == memory.activation_bytes(c, 32_768)
    by_hand = 2 * 10 * (2 * 4096 + 3 * 12_288) + 4 * 151_936
    assert memory.activation_bytes(c, 10) == by_hand
    assert memory.activation_bytes(c, 0, 0) == 0


def test_cards() -> None:
    """The number of cards divides the query heads; speed is bandwidth over what a token reads."""
    c, h100 = NAMED("Qwen3-235B-A22B"), memory.card("h100")
    assert memory.cards_needed(c, memory.need(c, 32_768), h100) == 8  # not 6
    assert memory.cards_needed(c, memory.need(c, 32_768, kind="fp8"), h100) == 4
    assert memory.cards_needed(NAMED("Qwen3-8B"), memory.need(NAMED("Qwen3-8B"), 32_768), h100) == 1
    assert memory.cards_needed(c, memory.need(c, 32_768, 10_000), memory.card("RTX-4060")) is None
    small = NAMED("Qwen3-0.6B")
    read = 2 * small.num_parameters()
    assert memory.tokens_per_second(small, 0, h100) == pytest.approx(3350e9 / read)
    sparse = NAMED("Qwen3-30B-A3B")
    per_token = memory.read_bytes(sparse) / 2
    assert per_token == sparse.num_active_parameters() - sparse.vocab_size * sparse.hidden_size


def test_cards_and_speed_by_hand() -> None:
    """Room is nine tenths of a card; KV heads are copied where cards are more; the cache is read too."""
    c = NAMED("Qwen3-235B-A22B")
    wanted = memory.Need(236 * 10**9, 101 * 10**9, 10**9)  # 338 GB, and 439 with the four heads twice
    assert memory.cards_needed(c, wanted, replace(CARDS["H100"], memory=55e9)) == 16  # 8: 396 GB
    assert memory.cards_needed(c, wanted, replace(CARDS["H100"], memory=62e9)) == 8  # 446 GB
    one = memory.Need(16 * 10**9, 0, 0)
    assert memory.cards_needed(NAMED("Qwen3-8B"), one, replace(CARDS["H100"], memory=17e9)) == 2
    speed = memory.tokens_per_second(c, 32_768, CARDS["H100"], 8)
    assert speed == pytest.approx(8 * 3350e9 / (memory.read_bytes(c) + 94 * 2 * 4 * 128 * 2 * 32_768))
    moe = NAMED("Qwen3-30B-A3B")
    assert memory.activation_bytes(moe, 10) == 2 * 10 * (2 * 2048 + 3 * 8 * 768) + 4 * 151_936


def test_layers_that_llama_cpp_gives_more_bits() -> None:
    """Of 36 layers the first and last eighth, and of the others each third from the third on."""
    c = NAMED("Qwen3-8B")
    shape = (c.hidden_size, c.intermediate_size)
    bits = [memory._bits_of_gguf(c, f"model.layers.{i}.mlp.down_proj.weight", shape) for i in range(36)]
    assert {i for i, b in enumerate(bits) if b == 6.5625} == {*range(4), *range(6, 31, 3), *range(31, 36)}
    assert {*bits} == {4.5, 6.5625}


def test_every_card_says_where_its_numbers_are_from() -> None:
    """Both are stated by a page, and GDDR's bandwidth is its bus times its data rate, by hand."""
    assert all(card.source.startswith("https://") and card.status == "second hand" for card in CARDS.values())
    by_hand = {"RTX-4060": 128 / 8 * 17, "RTX-4090": 384 / 8 * 21}  # bits over 8, times Gbit/s a pin
    assert {name: CARDS[name].bandwidth / 1e9 for name in by_hand} == by_hand


def test_keys_and_values_are_copied_where_there_are_more_cards_than_kv_heads() -> None:
    """Two KV heads: from three cards on each copy is paid for, below that there are none."""
    c = replace(NAMED("Qwen3-0.6B"), num_attention_heads=8, num_key_value_heads=2)
    one = replace(memory.card("h100"), memory=100 / memory.USABLE)
    for cache, others, cards in ((0, 101, 2), (90, 90, 2), (150, 60, 4), (179, 20, 2), (189, 40, 8)):
        found = memory.cards_needed(c, memory.Need(others, cache, 0), one)
        by_hand = [n for n in (1, 2, 4, 8) if others + cache * max(1, n / 2) <= 100 * n]
        assert found == by_hand[0] == cards, (cache, others)


@pytest.mark.parametrize(
    ("layers", "more"), [(36, [0, 1, 2, 3, *range(6, 31, 3), *range(31, 36)]), (8, [0, 3, 6, 7])]
)
def test_the_layers_of_which_q4_k_m_keeps_more(layers: int, more: list[int]) -> None:
    """llama.cpp's use_more_bits: the first eighth, the last, and every third between; half in all."""
    c = replace(NAMED("Qwen3-8B"), num_hidden_layers=layers)
    for part in ("self_attn.v_proj", "mlp.down_proj"):
        bits = [memory._bits(c, f"model.layers.{i}.{part}.weight", (8, 256), "q4_k_m") for i in range(layers)]
        assert bits == [6.5625 if i in more else 4.5 for i in range(layers)]
    named = {"lm_head": 6.5625, "model.embed_tokens": 4.5, "model.layers.0.self_attn.q_proj": 4.5}
    named |= {"model.norm": 32, "model.layers.0.mlp.gate": 32, "model.layers.0.mlp.gate_proj": 4.5}
    for name, bits in named.items():
        shape = (4096,) if name == "model.norm" else (8, 256)
        assert memory._bits(c, f"{name}.weight", shape, "q4_k_m") == bits, name
    tied = replace(c, tie_word_embeddings=True)
    assert memory._bits(tied, "model.embed_tokens.weight", (8, 256), "q4_k_m") == 6.5625


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda c: memory.weight_bytes(c, "int5"), "the format is 'int5'; "),
        (lambda c: memory.kv_bytes(c, 5, kind="fp4"), "the format of the cache is 'fp4'; "),
        (lambda c: memory.card("H10"), "'H10' is no card that is known here; did you mean h100"),
        (lambda c: memory.need(c, -1), "length is -1"),
    ],
)
def test_what_is_unknown(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make(NAMED("Qwen3-0.6B"))


def test_info_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "Qwen3-8B", "--gpu", "rtx-4090"]) == 0
    shown = capsys.readouterr().out
    for text in ("weights in fp8", "weights in int4-g128", "RTX-4090", "1 x, at most"):
        assert text in shown
    assert main(["info", "Qwen3-235B-A22B", "--gpu", "H100", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["gpu"]["formats"]["bf16"]["cards"] == 8
    assert record["weight_bytes_by_format"]["bf16"] == record["weight_bytes"]
    assert main(["info", "Qwen3-8B", "--gpu", "H10"]) != 0
    assert "did you mean h100" in capsys.readouterr().err
