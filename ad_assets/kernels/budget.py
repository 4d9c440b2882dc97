"""Errors that say that memory, or a budget of it, does not suffice."""

from __future__ import annotations

HOST_ALLOCATOR = "DefaultCPUAllocator"  # in PyTorch's errors in main memory, which have no type of their own
_SIGNS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", HOST_ALLOCATOR)  # the first of CUDA and of faiss


class BudgetError(ValueError):
    """What must be held at once is more than a memory budget."""


def lacks_memory(error: BaseException) -> bool:
    """Whether memory of a device, or of the machine, did not suffice.

    >>> lacks_memory(MemoryError()), lacks_memory(RuntimeError("CUDA error: out of memory")), lacks_memory(ValueError())
    (True, True, False)
    """
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch's, which is not worth importing torch for
        or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS))
    )
