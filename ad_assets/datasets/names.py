"""Names of folders, files and table cells: one rule for every reader.

Names of splits (``train``, ``test``, ``ground_truth``) and nominal names (``good``, ``ok``, ``normal``, ``nominal``)
are compared without regard to case and to blanks around them, in folders and in tables alike. A name that nearly is one
of them is neither taken for it nor for a defect type: it is an error that offers the known names. Names of defect types
and categories are compared as they are.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

NOMINAL = "good"  # the defect type of every nominal image, whatever its folder is called
NOMINAL_NAMES = ("good", "ok", "normal", "nominal")
PARTS = ("train", "test", "ground_truth")

CATEGORY_LENGTH = 100  # characters; names of files are made of it, and file systems end at 255 bytes
CATEGORY_KEY = re.compile(rf"[A-Za-z0-9_-]{{1,{CATEGORY_LENGTH}}}")
CATEGORY_RULE = f"letters, digits, _ and - only, {CATEGORY_LENGTH} characters at most"

# By the formats that `ad_assets.datasets.images` decodes.
IMAGE_SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    *(".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif", ".avif", ".tga", ".pbm", ".pgm", ".ppm", ".pnm"),
)
# Pictures all the same, or films: whoever puts them among images expects them to be read.
FOREIGN_SUFFIXES = (
    *(".heic", ".heif", ".jxl", ".jxr", ".wdp", ".dng", ".nef", ".cr2", ".cr3", ".arw", ".orf", ".raf", ".rw2", ".raw"),
    *(".psd", ".psb", ".xcf", ".svg", ".eps", ".ps", ".pdf", ".dds", ".exr", ".hdr", ".pfm", ".pcx", ".sgi", ".ras"),
    *(".ico", ".icns", ".qoi", ".fits", ".fit", ".dcm", ".czi", ".lsm", ".nd2", ".emf", ".wmf", ".xbm", ".xpm"),
    *(".mp4", ".avi", ".mov", ".mkv", ".wmv", ".webm", ".m4v", ".mpg", ".mpeg"),
)

_ALIASES = {
    **dict.fromkeys(("training", "trainset", "trainingset", "trains", "learn"), "train"),
    **dict.fromkeys(("testing", "testset", "tests"), "test"),
    **dict.fromkeys(("groundtruth", "groundtruths", "gt", "mask", "masks"), "ground_truth"),
    **dict.fromkeys(("defectfree", "nodefect", "nodefects", "anomalyfree", "noanomaly", "faultless"), "good"),
}
_FILLERS = frozenset({"image", "images", "img", "imgs", "sample", "samples", "part", "parts", "copy", "new", "old"})


def is_image(path: str) -> bool:
    """Whether the name says image, of a format that is read."""
    return path.lower().endswith(IMAGE_SUFFIXES)


def is_foreign(path: str) -> bool:
    """Whether the name says picture or film, of a format that is not read."""
    return path.lower().endswith(FOREIGN_SUFFIXES)


def known(name: str, names: tuple[str, ...] = PARTS) -> str | None:
    """The one of some names that a name is, without regard to case and blanks around it."""
    plain_name = name.strip().casefold()
    return plain_name if plain_name in names else None


def is_nominal(name: str) -> bool:
    """Whether a folder's or table's name says that images are good."""
    return known(name, NOMINAL_NAMES) is not None


def near_part(name: str) -> str | None:
    """The split that a name nearly is, as ``training`` and ``Test_2`` nearly are."""
    return None if known(name) else _near(name, PARTS)


def near_nominal(name: str) -> str | None:
    """The nominal name that a name nearly is, as ``goods``, ``OK (2)`` and ``defect-free`` nearly are."""
    return None if is_nominal(name) else _near(name, NOMINAL_NAMES)


def sibling_suffix(path: str) -> str:
    """The suffix of a path in lower case, or ``no suffix``."""
    return PurePosixPath(path).suffix.lower() or "no suffix"


def plain(text: str) -> str:
    """The text without control characters and broken characters, which names of files may hold and terminals obey."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def plain_name(name: str) -> str:
    """`plain`, for a name, in which a line's end is a character like others."""
    return plain(name).replace("\n", "\\n")


def _near(name: str, names: tuple[str, ...]) -> str | None:
    words = re.findall(r"[a-z]+", name.casefold())
    whole = "".join(words)
    alias = _ALIASES.get(whole)
    if alias in names:
        return alias
    squeezed = {each.replace("_", ""): each for each in names}
    if whole in squeezed:  # in pieces, or numbered
        return squeezed[whole]
    own = [word for word in words if word not in _FILLERS]
    if len(own) == 1 and own[0] in squeezed:
        return squeezed[own[0]]
    # Two letters tell too little: nok is no misspelt ok.
    return next((each for short, each in squeezed.items() if len(short) > 2 and _is_slip(whole, short)), None)


def _is_slip(name: str, meant: str) -> bool:
    """Whether one letter is missing, one too many, or two neighbours changed places; another letter is another word."""
    if sorted(name) == sorted(meant):
        swapped = (meant[:i] + meant[i + 1] + meant[i] + meant[i + 2 :] for i in range(len(meant) - 1))
        return name in swapped
    shorter, longer = sorted((name, meant), key=len)
    return len(longer) - len(shorter) == 1 and any(longer[:i] + longer[i + 1 :] == shorter for i in range(len(longer)))
