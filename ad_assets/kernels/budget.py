"""What kernels and methods raise where a memory budget does not suffice."""

from __future__ import annotations


class BudgetError(ValueError):
    """What must be held at once is more than a memory budget."""
