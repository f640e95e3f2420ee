"""Faults in counting what cards hold and send."""

from __future__ import annotations

from tests.faults.switch import Fault


def fault(name: str, words: str, right: str, wrong: str, test: str) -> Fault:
    """One of the calculator's."""
    return Fault(name=name, rows="own", words=words, module="cluster", right=right, wrong=wrong,
                 by=(f"test_cluster:test_{test}",))  # fmt: skip


FAULTS = [
    fault("ring_of_all", "each rank sends the whole array, as if its own part had to travel too",
          "size * (ranks - 1) / ranks", "size", "a_ring"),
    fault("all_reduce_once", "an all-reduce is counted as a reduce-scatter, without the way back",
          '"all-reduce": 2', '"all-reduce": 1', "tensor_parallel_by_hand"),
    fault("tokens_never_come_back", "the all-to-all of experts' results is left out",
          "m.tp, 2 * passes * picks", "m.tp, passes * picks", "experts_by_all_to_all_by_hand"),
    fault("one_expert_a_token", "a token travels to one expert, whatever top_k says",
          "(c.num_experts_per_tok or 0) * stream", "stream", "experts_by_all_to_all_by_hand"),
    fault("again_sends_nothing", "what is computed again is not sent again",
          "passes = 3 if checkpointing else 2", "passes = 2", "tensor_parallel_by_hand"),
    fault("weights_gathered_once", "FSDP keeps what it has gathered until the backward pass",
          'm.tp, s * (rest - root), True', 'm.tp, 0 * (rest - root), True', "ddp_and_fsdp_by_hand"),
    fault("kv_heads_cut", "more ranks than KV heads hold half a head each",
          '{"kv": few if copied else mesh.tp', '{"kv": mesh.tp',
          "kv_heads_are_copied_where_tp_is_more"),
    fault("norms_cut", "norms and routers are split by tp",
          '"forward": mesh.tp, "whole": 1', '"forward": mesh.tp, "whole": mesh.tp', "who_holds_what"),
    fault("experts_sliced_by_all", "experts are sliced over fsdp x ep, though ep has split them",
          "math.ceil(experts / mesh.fsdp)", "math.ceil(experts / mesh.shards)",
          "experts_have_slices_and_copies_of_their_own"),
    fault("copies_of_experts_like_others", "experts' gradients are averaged over the ranks that share them",
          'all-reduce", m.dp, m.tp', 'all-reduce", m.copies, m.tp',
          "experts_have_slices_and_copies_of_their_own"),
    fault("one_state_of_adamw", "AdamW has one state a weight",
          "4 * kept, 4 * kept, 8 * kept", "4 * kept, 4 * kept, 4 * kept", "who_holds_what"),
    fault("gathered_alone", "no block arrives while another computes",
          "(3 * s + 4) * (block", "(2 * s + 4) * (block", "who_holds_what"),
    fault("attention_read_once", "o_proj reads attention's output without a copy of it",
          "(norm + 2 * s) * h * c.head_dim", "(norm + s) * h * c.head_dim",
          "activations_are_what_autograd_keeps"),
    fault("a_row_for_one_expert", "rows stand once, not for each chosen expert",
          "total + c.num_experts_per_tok * (s * (row + 1) + 20)", "total + (s * (row + 1) + 20)",
          "activations_are_what_autograd_keeps"),
    fault("heads_need_not_divide", "cards are counted by memory, and 64 heads split over six",
          '{"num_attention_heads": c.num_attention_heads, "vocab', '{"vocab', "serving_the_largest"),
    fault("blocks_of_fp8_cut", "a rank's part of an expert may cut a block of 128",
          "width // n % 128 != 0", "width % 128 != 0", "serving_the_largest"),
    fault("one_copy_of_the_cache", "eight cards share the cache of four KV heads without copies",
          "* max(1, n / c.num_key_value_heads) / n", "/ n", "serving_the_largest"),
    fault("backward_is_forward", "a backward pass costs what a forward pass does",
          "passes = 4 if checkpointing else 3", "passes = 3 if checkpointing else 2", "seconds_by_hand"),
    fault("everything_is_near", "links between machines are as quick as those within one",
          "far = group * stride > NODE", "far = group > NODE", "links_of_groups_beyond_a_machine"),
]  # fmt: skip
