"""One model on several ranks, by PyTorch's own engine (DTensor, FSDP2, distributed checkpoints): each rank
holds a part of every weight, computes on it, and collectives make the parts one model again. A rank is a
process; `torchrun` starts one for each card, and here two or four of them on a CPU stand for the cluster.
"""
