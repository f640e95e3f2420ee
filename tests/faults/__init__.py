"""Known bugs, switchable: each is one wrong line of the package, and the suite must catch it.

`switched_on(fault)` puts the wrong line into the live package; `python -m tests.faults` prints which
check catches which fault. The rows are those of README.md: bugs that real Qwen3 ports shipped.
"""

from __future__ import annotations

from tests.faults.switch import Fault, switched_on

__all__ = ["EQUIVALENT", "FAULTS", "Fault", "switched_on"]


def _catalogue() -> tuple[list[Fault], list[Fault]]:
    from tests.faults import (
        arguments,
        attention_and_experts,
        axes,
        balancing,
        classroom,
        cluster,
        decoding,
        drafting,
        dual_chunk,
        engines,
        equivalent,
        exports,
        family,
        family_and_ledger,
        files,
        first_hour,
        forward,
        loading,
        long_context,
        measuring,
        norms_and_rope,
        parallel,
        quantizing,
        quicker,
        reach,
        replies,
        serving,
        specification,
        stages,
        talking,
        text,
        tools,
        training,
    )

    torch = [*norms_and_rope.FAULTS, *attention_and_experts.FAULTS]
    faults = [*torch, *specification.FAULTS, *loading.FAULTS, *serving.FAULTS]
    faults += [*text.FAULTS, *replies.FAULTS, *training.FAULTS, *balancing.FAULTS]
    faults += [*measuring.FAULTS, *decoding.FAULTS]
    faults += [*first_hour.FAULTS, *forward.FAULTS]
    faults += files.FAULTS
    faults += stages.FAULTS
    faults += arguments.FAULTS
    faults += family.FAULTS
    faults += family_and_ledger.FAULTS
    faults += reach.FAULTS
    faults += long_context.FAULTS
    faults += dual_chunk.FAULTS
    faults += tools.FAULTS
    faults += talking.FAULTS
    faults += quantizing.FAULTS
    faults += drafting.FAULTS
    faults += quicker.FAULTS
    faults += exports.FAULTS
    faults += axes.FAULTS
    faults += engines.FAULTS
    faults += cluster.FAULTS
    faults += classroom.FAULTS
    faults += parallel.FAULTS
    return faults, equivalent.FAULTS


FAULTS, EQUIVALENT = _catalogue()
