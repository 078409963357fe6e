"""Runs the engine's tests as other processors would compute, those that this one can stand for.

Usage::

    python tests/processors.py [PYTEST_ARGUMENT ...]

oneDNN, MKL and torch's own kernels each choose by what the processor can do, and can be told to do with less.
"""

import os
import subprocess
import sys
from pathlib import Path

ENGINE = "tests/engine"

# What to play, by which variables, and what the processor must have for it by its flags in Linux.
PROCESSORS = {
    "AVX2": ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, "avx2"),
    "AVX-512": ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, "avx512f"),
    "AVX-512 with VNNI": ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, "avx512_vnni"),
    "AVX-512 with bfloat16": ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, "avx512_bf16"),
    "AVX2 in torch's own kernels": ({"ATEN_CPU_CAPABILITY": "avx2"}, "avx2"),
    "this processor": ({}, None),
    "this processor, plain products": ({"JINA_V4_PLAIN_KERNELS": "1"}, None),
}


def main():
    flags = _flags()
    failed = []
    for name, (variables, flag) in PROCESSORS.items():
        settings = " ".join(f"{key}={value}" for key, value in variables.items()) or "as it is"
        if flag is not None and flag not in flags:
            print(f"\n== {name}: left out, since this processor has no {flag}", flush=True)
            continue

        print(f"\n== {name}: {settings}", flush=True)
        options = ["-q", "--disable-warnings", "-n", "auto", "--maxprocesses", "4", "--dist", "loadfile"]
        command = [sys.executable, "-m", "pytest", *options, ENGINE, *sys.argv[1:]]
        if subprocess.run(command, env=os.environ | variables).returncode:
            failed.append(name)

    if failed:
        sys.exit(f"The engine's tests failed as: {', '.join(failed)}")


def _flags():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()

    return {flag for line in lines if line.startswith("flags") for flag in line.split(":")[1].split()}


if __name__ == "__main__":
    main()
