"""What says that memory did not suffice."""

import pytest
from jina_embeddings_v4.engine.memory import in_halves

# As the allocators word it.
MESSAGES = [
    "CUDA out of memory. Tried to allocate 2.00 GiB",
    "[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "Invalid buffer size: 21.00 GiB",
]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_batch_that_does_not_fit_is_halved(message):
    def double(batch):
        if len(batch) > 2:
            raise RuntimeError(message)
        return [2 * value for value in batch]

    assert in_halves(double, list(range(7))) == [0, 2, 4, 6, 8, 10, 12]
    with pytest.raises(MemoryError, match="One input of 3 tokens does not fit into memory"):
        in_halves(lambda batch: double(range(9)), ["abc"])


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def fail(batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        in_halves(fail, ["a", "b"])
