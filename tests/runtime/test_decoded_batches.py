"""Images are decoded ahead of what uses them, as far as there is room, and in order."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ad_assets_runtime.images import decoded_batches


class Source:
    """Numbers, and which of them were asked for so far."""

    def __init__(self, count: int) -> None:
        self.taken = 0
        self.count = count

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count):
            self.taken += 1
            yield number


@pytest.mark.parametrize(("count", "size"), [(0, 3), (1, 3), (7, 3), (9, 3), (5, 8)])
@pytest.mark.parametrize("most", [0, 1, 4, 1e9])
def test_batches_are_in_order_and_whole_however_little_room_there_is(count: int, size: int, most: float) -> None:
    with ThreadPoolExecutor(3) as pool:
        batches = list(decoded_batches(pool, str, range(count), size, lambda _: 2, most))
    assert [one for batch in batches for one in batch] == [str(number) for number in range(count)]
    assert all(len(batch) == size for batch in batches[:-1])


# What is in memory beside the batch in use: two batches, or as many images of the largest size as there is room for.
@pytest.mark.parametrize(("weight", "ahead"), [(1, 8), (10, 8), (20, 5), (50, 2), (1000, 0)])
def test_no_more_is_decoded_ahead_than_there_is_room_for(weight: int, ahead: int) -> None:
    source = Source(40)
    with ThreadPoolExecutor(2) as pool:
        batches = decoded_batches(pool, lambda number: number, source, 4, lambda _: weight, 100)
        assert [source.taken - 4 * number for number, _ in enumerate(batches, start=1)][:6] == [ahead] * 6


def test_an_image_that_fails_is_the_error_of_its_batch_and_the_rest_is_left() -> None:
    decoded: list[int] = []

    def decode(number: int) -> int:
        decoded.append(number)
        if number == 5:
            raise ValueError("image 5")
        return number

    source = Source(1000)
    with ThreadPoolExecutor(1) as pool:
        batches = decoded_batches(pool, decode, source, 4, lambda _: 1, 1e9)
        assert next(batches) == [0, 1, 2, 3]
        with pytest.raises(ValueError, match="image 5"):
            next(batches)
    assert source.taken <= 20
