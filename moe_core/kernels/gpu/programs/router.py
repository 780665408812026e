"""From logits to experts, gate weights and load in one program."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_tokens"])
def router(
    logits,
    bias,
    excluded,
    override,
    probs,
    chosen_out,
    experts,
    weights,
    load,
    num_tokens,
    num_experts,
    SLOTS: tl.constexpr,
    SIGMOID: tl.constexpr,
    NORMALISED: tl.constexpr,
    BIAS: tl.constexpr,
    EXCLUDED: tl.constexpr,
    OVERRIDE: tl.constexpr,
    BT: tl.constexpr,
    BE: tl.constexpr,
    BS: tl.constexpr,
):
    """Choose the SLOTS experts with the highest keys; equal keys go to the lowest index.

    A key is one integer: the score, in an order-preserving code, above the index from behind.

    Args:
        bias: (experts,) fp32, added to the score that chooses, not to the weight; with BIAS.
        excluded: (experts,) int8; such experts are as if they did not exist; with EXCLUDED.
        override: (tokens, slots) int64; -1 keeps, else the expert to run instead; with OVERRIDE.
        chosen_out: what would have run without the override; with OVERRIDE.
        load: (experts,) int32, zero before; filled slots are added.
    """
    token = tl.program_id(0) * BT + tl.arange(0, BT)
    expert = tl.arange(0, BE)
    known = token < num_tokens
    exists = expert < num_experts
    at = token.to(tl.int64)[:, None] * num_experts + expert[None, :]
    inside = known[:, None] & exists[None, :]
    logit = tl.load(logits + at, mask=inside, other=-float("inf")).to(tl.float32)
    if EXCLUDED:
        out = tl.load(excluded + expert, mask=exists, other=1) != 0
        logit = tl.where(out[None, :], -float("inf"), logit)
    if SIGMOID:
        prob = tl.sigmoid(logit)
    else:
        highest = tl.max(logit, 1)
        highest = tl.where(highest == -float("inf"), 0.0, highest)
        power = tl.exp(logit - highest[:, None])
        total = tl.sum(power, 1)
        prob = power / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(probs + at, prob, mask=inside)
    # Logits have the same order, and keep it where the probabilities saturate.
    score = logit
    if BIAS:
        score = prob + tl.load(bias + expert, mask=exists, other=0.0)[None, :]
        score = tl.where(logit == -float("inf"), -float("inf"), score)
    allowed = score != -float("inf")
    score = tl.where(score == 0.0, 0.0, score)
    code = score.to(tl.int32, bitcast=True)
    code = tl.where(code < 0, code ^ 0x7FFFFFFF, code)
    key = code.to(tl.int64) * 4294967296 + (BE - 1 - expert).to(tl.int64)[None, :]
    lowest = -9223372036854775808
    key = tl.where(allowed, key, lowest)
    slot = tl.arange(0, BS)
    chosen = tl.full((BT, BS), -1, dtype=tl.int64)
    weight = tl.zeros((BT, BS), dtype=tl.float32)
    for k in range(SLOTS):
        best = tl.max(key, 1)
        any_left = best != lowest
        index = BE - 1 - (best & 0xFFFFFFFF)
        hit = (expert[None, :] == index[:, None]) & any_left[:, None]
        value = tl.sum(tl.where(hit, prob, 0.0), 1)
        here = (slot == k)[None, :]
        chosen = tl.where(here, tl.where(any_left, index, -1)[:, None], chosen)
        weight = tl.where(here, value[:, None], weight)
        key = tl.where(hit, lowest, key)
    if NORMALISED:
        weight = weight / tl.maximum(tl.sum(weight, 1), 1.1754943508222875e-38)[:, None]
    at = token.to(tl.int64)[:, None] * SLOTS + slot[None, :]
    filled = known[:, None] & (slot < SLOTS)[None, :]
    if OVERRIDE:
        tl.store(chosen_out + at, chosen, mask=filled)
        forced = tl.load(override + at, mask=filled, other=-1)
        chosen = tl.where(forced == -1, chosen, forced)
    tl.store(experts + at, chosen, mask=filled)
    tl.store(weights + at, weight, mask=filled)
    runs = filled & (chosen >= 0) & (chosen < num_experts)
    # Sums of integers are the same in any order.
    tl.atomic_add(load + chosen, tl.full((BT, BS), 1, dtype=tl.int32), mask=runs, sem="relaxed")
