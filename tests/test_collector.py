"""Python's collector of cycles is as it was after a look, whatever the look does."""

import gc

import pytest

from ad_assets.collector import rare_collection


def test_the_collector_is_as_it_was_afterwards() -> None:
    before = gc.get_threshold()
    with rare_collection():
        assert gc.get_threshold()[0] > before[0]
        assert gc.isenabled()
    assert gc.get_threshold() == before

    @rare_collection()
    def fails() -> None:
        raise OSError

    with pytest.raises(OSError):
        fails()
    assert gc.get_threshold() == before
