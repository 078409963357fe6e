"""Triton's compiler takes the kernels, for GPUs that are not here: its interpreter runs more than it compiles."""

import json
import os
import subprocess
import sys

import pytest
import torch

# Ampere, Hopper.
CAPABILITIES = (80, 90)

# The least shared memory that a program may have on these GPUs, in bytes.
SHARED = 99 * 1024

# In a process of its own: in the tests', Triton interprets.
CODE = """
import json, sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from jina_embeddings_v4.engine import triton_kernels as kernels

calls = json.loads(sys.argv[1])
for capability in calls["capabilities"]:
    for name, dtype, constants, options in calls["kernels"]:
        kernel = getattr(kernels, name)
        types = {"cos": "*fp32", "sin": "*fp32", "offsets": "*i32", "scale": "fp32", "epsilon": "fp32"}
        signature = {
            argument: "constexpr" if argument in constants
            else types.get(argument, "i32" if argument.endswith("stride") else f"*{dtype}")
            for argument in kernel.arg_names
        }
        constexprs = {(kernel.arg_names.index(argument),): value for argument, value in constants.items()}
        source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs)
        made = compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4} | options)
        print(json.dumps([name, dtype, capability, len(made.asm["cubin"]), made.metadata.shared]))
"""

# At the real model's sizes.
KERNELS = [
    *(
        [name, dtype, constants, {}]
        for dtype in ("bf16", "fp32")
        for name, constants in (
            ("_add_norm", {"width": 2048, "block": 2048, "adds": True}),
            ("_rotate", {"heads": 18, "half": 64, "head_block": 32, "half_block": 64}),
            ("_silu_mul", {"width": 11008, "block": 4096}),
        )
    ),
    ["_attend_in_windows", "bf16", {"heads": 16, "half": 40, "half_block": 64, "block": 64}, {}],
    [
        "_attend_causally",
        "bf16",
        {"heads": 16, "key_heads": 2, "half": 64, "block": 64, "key_block": 64},
        {"num_stages": 3},
    ],
]


@pytest.mark.skipif(torch.version.cuda is None, reason="torch's builds without a GPU have no Triton")
def test_the_kernels_compile_for_gpus_and_fit_into_their_shared_memory(tmp_path):
    calls = json.dumps({"capabilities": CAPABILITIES, "kernels": KERNELS})
    variables = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", CODE, calls], capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
    made = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(made) == len(KERNELS) * len(CAPABILITIES)
    for name, dtype, capability, size, shared in made:
        assert size > 1000 and shared <= SHARED, (name, dtype, capability, size, shared)
