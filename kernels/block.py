"""The argument block: how the layer above tells the loops what to work on.

A block is one int64 array: a header, then tables. All memory is named by byte address, kernels too; the arrays behind
the addresses belong to the caller and outlive the call. The loops read the block, and write only the counter and the
work tables in it.

The rows of all steps lie one behind the other, step after step. Rows are sorted by how long they last: step t has the
first `rows(t)` rows of the batch, and no later step has more. Usually all have BATCH; else STARTS says where each step
begins. A loop visits the steps from FIRST on, upwards or downwards; so rows may *begin* at any step of it, or *end*.

A *plane* is where a (rows, units) slab lies at each step:

    row b is at REST + b * ROW, in a plane that MOVES plus ROW times the rows of all steps before this one
    (or before its neighbour in memory)

but the rows that begin, or end, at a step may be elsewhere, at EDGE_ADDRESS + b * EDGE_ROW: so the state before a step
is a plane that is the initial state where rows begin.
"""

# --- header ------------------------------------------------------------------------------------------------------
COUNTER = 0  # rendezvous and barriers
PROCESSORS = 1  # where the threads are, while they gather
WORKER_WORDS = 8  # these two and what fills their cache line: 0 at the start of a call, of any kernel
STEPS = 8  # T
BATCH = 9  # B
ROWS = 10  # of all steps
STARTS = 11  # 0, or the address of T + 3 words: word t + 1 is how many rows the steps before t have, 0 <= t <= T
FIRST = 12  # the step where the loop begins
SIGN = 13  # 1 or -1: it goes on to the next one or the one before
BY_UNITS = 14  # how threads share a step: 0 by rows of the batch, 1 by hidden units
SHARES = 15  # 0 for even shares of the batch, or the address of threads + 1 words: where each thread's rows begin
LANES = 16  # units of a group
PLANES = 17  # how many planes there are
PLANE_TABLE = 18  # address of (PLANES, PLANE_WORDS)
WORK_TABLE = 19  # address of (threads, PLANES, WORK_WORDS), written by the loop: address now, bytes from row to row
SCRATCH = 20  # address of (threads, SCRATCH_BYTES)
SCRATCH_BYTES = 21
STAGE_KERNEL = 22  # of all stages, see `stage.py`
STAGES = 23  # 1 or 2 stages a step; each is described by the words
STAGE_TABLE = 24  # at STAGE_TABLE + STAGE_WORDS * number:
FORMULA, TILE, SUMS, MULTIPLIED, NUMBER_BYTES = range(5)  # the recipe of a stage: addresses of kernels, and numbers
STAGE_UNITS, STAGE_OPERAND, STAGE_MATRIX, STAGE_DEPTH = range(5, 9)
# after a recipe: units, number of the plane multiplied, packed matrix, depth
STAGE_WORDS = 9

# forward: the sums W x. The first stage makes those of a step where a thread has at least X_WITHIN rows; the others are
# made apart before, for at most X_CHUNK rows at a time
X_RECIPE = 42  # its sums are the gates of x
X_UNITS = 47  # H
X_MATRIX = 48
X_DEPTH = 49  # I
X_CHUNK = 50  # at least BATCH
X_OPERAND = 51  # address of x
X_OPERAND_ROW = 52
X_SUMS = 53  # address of (X_CHUNK, gates, padded H); threads that share rows have theirs at the same places always
X_SUMS_ROW = 54
X_SUMS_GATE = 55
X_TABLE = 56  # address of (threads, 2 * gates, WORK_WORDS): work table of the stage W x, written by the loop
X_WITHIN = 57

# backward: where rows end, and what is left after the loop
DH_0_RECIPE = 42  # of the stage that finishes dL/dh_0
DH_0_TABLE = 47  # address of (3, WORK_WORDS): zeros, `dh_next`, dL/dh_0
DX_RECIPE = 48
DX_TABLE = 53  # address of (2, WORK_WORDS): zeros, dL/dx
DX_UNITS = 54  # I
DX_OPERAND = 55  # gate gradients towards x, rows of all steps
DX_OPERAND_ROW = 56
DX_MATRIX = 57
DX_DEPTH = 58
GRADIENT_KERNEL = 59  # adds one weight gradient
GRADIENT_TILE = 60
GRADIENTS = 61  # how many
GRADIENT_TABLE = 62  # address of (GRADIENTS, words of `weight_gradient`)

HEADER_WORDS = 64

# --- planes ------------------------------------------------------------------------------------------------------
REST, MOVES, ROW, EDGE, EDGE_ADDRESS, EDGE_ROW = range(6)
PLANE_WORDS = 6
FIXED, THIS_STEP, STEP_BEFORE, STEP_AFTER = range(4)  # MOVES; before and after in memory
NOWHERE, BEGINNING, ENDING = range(3)  # EDGE: which rows are elsewhere
WORK_WORDS = 2
