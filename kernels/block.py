"""The argument block: how the layer above tells the loops what to work on.

A block is one int64 array: a header, then tables. All memory is named by byte address, kernels too; the arrays behind
the addresses belong to the caller and outlive the call. The loops read the block, and write only the counter and the
work tables in it.

A *plane* is where a (B, units) slab lies at each step s of the loop (s counts in the order of computation):

    row b starts at REST + s * STEP + b * ROW, but at step EDGE at EDGE_ADDRESS + b * EDGE_ROW

so the state before a step is a plane with the initial state at its edge, and what does not change is a plane of step 0.
"""

# --- header ------------------------------------------------------------------------------------------------------
COUNTER = 0  # rendezvous and barriers; alone in its cache line
STEPS = 8  # T
BATCH = 9  # B
BY_UNITS = 10  # how threads share a step: 0 by rows of the batch, 1 by hidden units
LANES = 11  # units of a group
PLANES = 12  # how many planes there are
PLANE_TABLE = 13  # address of (PLANES, PLANE_WORDS)
WORK_TABLE = 14  # address of (threads, PLANES, WORK_WORDS), written by the loop: address now, bytes from row to row
SCRATCH = 15  # address of (threads, SCRATCH_BYTES)
SCRATCH_BYTES = 16
STAGES = 17  # 1 or 2 stages a step; each is described by the words
STAGE_TABLE = 18  # at STAGE_TABLE + 8 * number:
STAGE_KERNEL, STAGE_TILE, STAGE_UNITS, STAGE_OPERAND, STAGE_MATRIX, STAGE_DEPTH = range(6)
# kernel and tile addresses, units, number of the plane multiplied, packed matrix, depth
STAGE_WORDS = 8

# forward: the sums W x, for X_CHUNK steps at a time
X_KERNEL = 34
X_TILE = 35
X_GATES = 36
X_UNITS = 37  # H
X_MATRIX = 38
X_DEPTH = 39  # I
X_CHUNK = 40
X_OPERAND = 41  # address of x at the first step computed
X_OPERAND_STEP = 42
X_OPERAND_ROW = 43
X_SUMS = 44  # address of (X_CHUNK, B, gates, padded H)
X_SUMS_STEP = 45
X_SUMS_ROW = 46
X_SUMS_GATE = 47
X_TABLE = 48  # address of (threads, 2 * gates, WORK_WORDS): work table of the stage W x, written by the loop

# backward: what is left after the loop
DH_NEXT = 34  # number of that plane
DH_0_KERNEL = 35  # the stage that finishes dL/dh_0
DH_0_TABLE = 36  # address of (threads, 3, WORK_WORDS): zeros, `dh_next` (written by the loop), dL/dh_0
DX_KERNEL = 37
DX_TILE = 38
DX_TABLE = 39  # address of (2, WORK_WORDS): zeros, dL/dx
DX_UNITS = 40  # I
DX_OPERAND = 41  # gate gradients towards x, rows of all steps
DX_OPERAND_ROW = 42
DX_MATRIX = 43
DX_DEPTH = 44
GRADIENT_KERNEL = 45  # adds one weight gradient
GRADIENTS = 46  # how many
GRADIENT_TABLE = 47  # address of (GRADIENTS, words of `weight_gradient`)

HEADER_WORDS = 56

# --- planes ------------------------------------------------------------------------------------------------------
REST, STEP, ROW, EDGE, EDGE_ADDRESS, EDGE_ROW = range(6)
PLANE_WORDS = 6
WORK_WORDS = 2
