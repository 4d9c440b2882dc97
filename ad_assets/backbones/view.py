"""What an extractor sees of images: the share that resizing and cropping leave, and the camera pixels of a map's cell.

What a crop cuts away is never looked at, and a defect much smaller than a cell may leave the score as it was. Both
are said in one sentence wherever images of a known size meet an extractor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ad_assets.backbones.extractor import Extractor
from ad_assets_runtime.geometry import resized_shape, seen_share

# `View.warning` speaks below this share of a picture, and above this side of a cell.
ENOUGH_SEEN = 0.95
LARGE_CELL = 32  # camera pixels
ONE_SHAPE = 1.05  # largest ratio of the ratios of sides that counts as one shape


@dataclass(frozen=True)
class View:
    """What an extractor sees of images of some sizes.

    Args:
        sizes: height and width of the images, smallest area first.
        shares: for each size the part of the picture that is looked at, 0..1.
        cells: for each size height and width of a cell of the finest map, camera pixels; empty where that is not known.
        stretched: whether images of different shapes are resized to one height and width.
    """

    sizes: tuple[tuple[int, int], ...]
    shares: tuple[float, ...]
    cells: tuple[tuple[float, float], ...]
    stretched: bool = False

    @classmethod
    def of(cls, extractor: Extractor, sizes: Iterable[tuple[int, int]], grid: tuple[int, int] | None = None) -> View:
        """The view of an extractor.

        Args:
            extractor: the extractor.
            sizes: height and width of images; equal ones count once.
            grid: rows and columns of the first tap, where the backbone is loaded; None: as the table of taps says.

        Raises:
            ValueError: there is no size.
        """
        known = tuple(sorted(set(sizes), key=lambda size: (size[0] * size[1], size)))
        if not known:
            raise ValueError("no image, so nothing is known of what is seen of it")
        height, width = extractor.input_size
        step = extractor.reductions[0]
        steps = (height / grid[0], width / grid[1]) if grid else (step, step) if step else None
        shapes = [h / w for h, w in known]
        frames = [resized_shape(*size, extractor.resize) for size in known]
        return cls(
            known,
            tuple(seen_share(size, *extractor.geometry) for size in known),
            tuple((h / f * steps[0], w / g * steps[1]) for (h, w), (f, g) in zip(known, frames, strict=True))
            if steps
            else (),
            not isinstance(extractor.resize, int) and max(shapes) > ONE_SHAPE * min(shapes),
        )

    def sentence(self, name: str) -> str:
        """What is seen, such as ``images are 4000 x 3000, lite0 looks at 57 % of them, one cell is 94 x 94 camera
        pixels``.

        Args:
            name: of the extractor or detector.
        """
        sizes = _span([f"{width} x {height}" for height, width in self.sizes])
        shares = _span([_percent(share) for share in sorted(self.shares)])
        said = f"images are {sizes}, {name} looks at {shares} % of them"
        cells = sorted(self.cells, key=max)
        return f"{said}, one cell is {_span([_cell(cell) for cell in cells])} camera pixels" if cells else said

    def facts(self, name: str, own_images: bool) -> dict[str, str]:
        """The sentence and, of people's own images alone, the warning, as metadata."""
        warning = self.warning() if own_images else ""
        return {"seen": self.sentence(name), **({"seen_warning": warning} if warning else {})}

    def warning(self) -> str:
        """What of this may hide defects, and the remedy; empty where at least `ENOUGH_SEEN` is seen in small cells."""
        found = []
        if min(self.shares) < ENOUGH_SEEN:
            found.append(
                f"{_percent(1 - min(self.shares))} % of the picture is never looked at, and a defect there changes no "
                "score: write resize: [height, width] without crop"
            )
        largest = max(self.cells, key=max, default=(0.0, 0.0))
        if max(largest) > LARGE_CELL:
            found.append(
                f"one cell is {_cell(largest)} camera pixels, and a defect smaller than that may change no score: "
                "shrink the images less (resize), and pass them in pieces (tiles)"
            )
        if self.stretched:
            sizes = _span([f"{width} x {height}" for height, width in self.sizes])
            found.append(
                f"images from {sizes} have different shapes and are stretched to one: look at the odd "
                "ones, or give each camera a dataset of its own"
            )
        return "; ".join(found)


def _span(texts: list[str]) -> str:
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"


def _cell(cell: tuple[float, float]) -> str:
    height, width = (f"{side:.0f}" if side >= 10 else f"{side:.2g}" for side in cell)
    return f"{width} x {height}"
