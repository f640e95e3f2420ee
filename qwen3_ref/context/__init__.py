"""Dual Chunk Attention, which reads texts beyond the trained length at distances that training has seen.

A model trained on c tokens has never seen a distance of c. Dual Chunk Attention cuts the text into
chunks and lets no query stand farther than c from any key: within a chunk distances are true, to the
chunk before they are true for its nearest keys, and to all older ones the query stands at the farthest
place there is. `chunks` has the positions, `dual_chunk` the attention of `Qwen3`, `specification` the
same in NumPy with every relative position written out.
"""
