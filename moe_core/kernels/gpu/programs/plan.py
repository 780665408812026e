"""Sorting slots by expert and listing the tiles of rows, on the device and without atomics.

A counting sort: blocks of slots are counted by expert, and a slot's row is where its expert begins,
plus what earlier blocks hold of that expert, plus what comes before it in its own block.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_slots"])
def count(experts, counts, num_slots, num_experts, BLOCK: tl.constexpr, CHUNK: tl.constexpr):
    """How many slots of each block go to each expert: counts, (blocks, experts) int32."""
    block = tl.program_id(0)
    slot = block * BLOCK + tl.arange(0, BLOCK)
    mine = tl.load(experts + slot, mask=slot < num_slots, other=-1)
    for first in range(0, num_experts, CHUNK):
        expert = first + tl.arange(0, CHUNK)
        hits = (mine[:, None] == expert[None, :]).to(tl.int32)
        tl.store(
            counts + block.to(tl.int64) * num_experts + expert,
            tl.sum(hits, 0),
            mask=expert < num_experts,
        )


@triton.jit(do_not_specialize=["num_slots"])
def place(experts, counts, through, ends, slots, rows, num_slots, num_experts, BLOCK: tl.constexpr):
    """Write the slot of each row and the row of each slot; -1 for a slot that does not run.

    Args:
        through: counts, summed over the blocks up to and including each.
        ends: end of each expert's rows.
    """
    block = tl.program_id(0).to(tl.int64)
    place_in_block = tl.arange(0, BLOCK)
    slot = block * BLOCK + place_in_block
    mine = tl.load(experts + slot, mask=slot < num_slots, other=-1)
    runs = (mine >= 0) & (mine < num_experts)
    expert = tl.where(runs, mine, 0)
    here = block * num_experts + expert
    start = tl.load(ends + expert - 1, mask=expert > 0, other=0)
    earlier = tl.load(through + here) - tl.load(counts + here)
    before = (mine[None, :] == mine[:, None]) & (place_in_block[None, :] < place_in_block[:, None])
    row = start + earlier + tl.sum(before.to(tl.int32), 1)
    tl.store(rows + slot, tl.where(runs, row, -1), mask=slot < num_slots)
    tl.store(slots + row, slot.to(tl.int32), mask=runs)


@triton.jit(do_not_specialize=["num_tiles"])
def tiles(
    ends,
    tile_expert,
    tile_row,
    num_tiles,
    num_experts,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EXPERTS: tl.constexpr,
):
    """Expert and first row of each tile of up to ROWS rows; expert -1 past the last tile."""
    expert = tl.arange(0, EXPERTS)
    real = expert < num_experts
    end = tl.load(ends + expert, mask=real, other=0)
    start = tl.load(ends + expert - 1, mask=real & (expert > 0), other=0)
    own = tl.where(real, (end - start + ROWS - 1) // ROWS, 0)
    through = tl.cumsum(own, 0)
    tile = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    # The first expert whose tiles end behind this one.
    mine = tl.sum((through[None, :] <= tile[:, None]).to(tl.int32), 1)
    hit = mine[:, None] == expert[None, :]
    first = tl.sum(tl.where(hit, (through - own)[None, :], 0), 1)
    row = tl.sum(tl.where(hit, start[None, :], 0), 1) + (tile - first) * ROWS
    tl.store(tile_expert + tile, tl.where(mine < num_experts, mine, -1), mask=tile < num_tiles)
    tl.store(tile_row + tile, row, mask=tile < num_tiles)
