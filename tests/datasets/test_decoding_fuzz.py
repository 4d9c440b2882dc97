"""Mutated images and masks: whatever lies in a file, the answer is pixels or one short error that names it, soon."""

import os
import time
import warnings

import numpy as np
import pytest
from PIL import Image

from ad_assets.datasets.decoding import PUBLISHED, Decoding
from ad_assets_runtime.images import DecodingRoom, ImageError
from tests.datasets.test_images import encoded

MUTATED = int(os.environ.get("AD_ASSETS_FUZZED_IMAGES", "2000"))
SECONDS, CHARACTERS = 2.0, 2000


def seeds() -> list[bytes]:
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 4096, (24, 20), dtype=np.uint16))
    kinds = ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF", "JPEG2000"]
    mask = Image.fromarray((rng.random((24, 20)) < 0.1).astype(np.uint8) * 255)
    return [
        *(encoded(rgb, kind) for kind in kinds),
        *(encoded(mask, kind) for kind in ("PNG", "GIF", "JPEG", "TIFF")),
        encoded(deep, "PNG"),
        encoded(deep, "TIFF"),
        encoded(mask.convert("P"), "PNG", save_all=True, append_images=[mask.convert("P")]),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n",
        b"DDS " + bytes([124, 0, 0, 0]) + bytes(120) + bytes(64),
    ]


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 8))):
        place = int(rng.integers(len(changed))) if rng.random() < 0.5 else int(rng.integers(min(64, len(changed))))
        match int(rng.integers(4)):
            case 0:
                changed[place] = int(rng.integers(256))
            case 1:
                changed[place : place + 4] = rng.bytes(4)
            case 2:
                del changed[place : place + int(rng.integers(1, 40))]
            case 3:
                changed[place:place] = changed[: int(rng.integers(1, 40))]
        changed = changed or bytearray(b"\0")
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")
def test_mutated_files_give_pixels_or_one_short_error_that_names_them():
    rng, pool = np.random.default_rng(15), seeds()
    slowest, longest, refused, named = 0.0, 0, 0, 0
    for number in range(MUTATED):
        data = mutated(pool[number % len(pool)], rng)
        name = f"part/{number}.{('png', 'tga', 'dib', 'tif')[number % 4]}"
        for read in (Decoding(bit_depth=16).rgb, Decoding().inspect, Decoding().mask, PUBLISHED.mask):
            started = time.perf_counter()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    read(data, name)
            except ImageError as error:
                refused, named = refused + 1, named + str(error).startswith(f"{name}: ")
                longest = max(longest, len(str(error)))
            slowest = max(slowest, time.perf_counter() - started)
    assert named == refused > MUTATED
    assert slowest < SECONDS
    assert longest < CHARACTERS
    print(f"{MUTATED} mutated files: slowest {slowest:.2f} s, longest message {longest}, {refused} refusals")


@pytest.mark.parametrize("number", [-1, -2])
def test_no_other_program_and_no_other_decoder_is_started(number):
    with pytest.raises(ImageError, match=r"x\.png: not an image of a known format"):
        Decoding().rgb(seeds()[number], "x.png")


def test_large_images_wait_for_the_memory_that_others_hold():
    from concurrent.futures import ThreadPoolExecutor

    room, at_once, most = DecodingRoom(memory_gb=2e-6), [0], [0]  # 1,000 bytes for decoding

    def decode(size: int) -> None:
        with room.hold(size):
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
            time.sleep(0.002)
            at_once[0] -= 1

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(decode, [600] * 8))
        assert most[0] == 1
        list(threads.map(decode, [5000]))  # more than there is: alone, and not for ever
        list(threads.map(decode, [250] * 16))
    assert 1 < most[0] <= 4
