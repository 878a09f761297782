"""Pictures become views: decoded, fitted, split; and the file that does it stands
alone."""

import ast
import io
import struct
import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import picture
from PIL import Image as Pillow

from mm1.data import image_processing as portable
from mm1.data.image_processing import MANY, Views, pixels_of, resize
from mm1.data.images import ImageError, decode, probe

MM15 = Views((672, 672), resize="pad", split="dynamic", min_tiles=4, max_tiles=9)


def ramp(height: int, width: int) -> torch.Tensor:
    """A picture whose every pixel says where it is: row in red, column in green."""
    rows, columns = torch.meshgrid(
        torch.arange(height), torch.arange(width), indexing="ij"
    )
    return torch.stack((rows, columns, torch.zeros_like(rows))).to(torch.uint8)


# --- decoding


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_formats_decode_to_three_channels(kind: str) -> None:
    assert decode(picture(9, 7, kind=kind).data).shape == (3, 7, 9)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "LA", "I;16"])
def test_colour_modes_become_rgb(mode: str) -> None:
    made = Pillow.fromarray(np.arange(0, 240, 4, dtype=np.uint8).reshape(6, 10))
    if mode == "I;16":
        made = Pillow.fromarray(
            np.arange(0, 60_000, 1000, dtype=np.uint16).reshape(6, 10)
        )
    buffer = io.BytesIO()
    (made if mode == "I;16" else made.convert(mode)).save(
        buffer, "TIFF" if mode == "CMYK" else "PNG"
    )
    pixels = decode(buffer.getvalue())
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, 6, 10)
    assert pixels.float().std() > 20  # nothing is clipped to one grey


def test_transparency_is_laid_on_white() -> None:
    buffer = io.BytesIO()
    Pillow.new("RGBA", (3, 3), (200, 0, 0, 0)).save(buffer, "PNG")
    assert (decode(buffer.getvalue()) == 255).all()


def test_a_rotated_photo_is_upright_and_its_size_is_known_from_the_header() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    rotated = picture(10, 4, kind="JPEG", exif=exif)
    assert probe(rotated.data) == (4, 10)
    assert decode(rotated.data).shape == (3, 10, 4)


@pytest.mark.parametrize(
    "data", [b"", b"not a picture", b"\xff\xd8\xff\xe0" + bytes(40)]
)
def test_what_is_no_picture_says_so(data: bytes) -> None:
    with pytest.raises(ImageError):
        decode(data)


def test_half_a_picture_says_so() -> None:
    for kind in ("PNG", "JPEG"):
        data = picture(64, 64, kind=kind).data
        with pytest.raises(ImageError):
            decode(data[: len(data) // 2])


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    small = picture(1, 1).data
    header = b"IHDR" + struct.pack(">II", 12_000, 12_000) + small[24:29]
    with pytest.raises(ImageError, match="12000 x 12000 pixels; the limit"):
        probe(small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:])


def test_resizing_is_pillows_to_one_grey_level() -> None:
    source = picture(96, 64)
    ours = resize(decode(source.data), (24, 32)).permute(1, 2, 0).numpy().astype(int)
    image = Pillow.open(io.BytesIO(source.data)).resize(
        (32, 24), Pillow.Resampling.BICUBIC
    )
    assert np.abs(ours - np.asarray(image).astype(int)).max() <= 1


def test_pixels_do_not_depend_on_how_a_picture_comes() -> None:
    """Of encoded bytes, or decoded by somebody else: an exported processor is given the
    latter."""
    for kind in ("PNG", "JPEG"):
        data = picture(300, 200, kind=kind).data
        opened = Pillow.open(io.BytesIO(data))
        opened.load()
        assert torch.equal(decode(data), pixels_of(opened))


# --- fitting


def test_squash_ignores_the_shape() -> None:
    source = torch.randint(0, 256, (3, 12, 30), dtype=torch.uint8)
    assert torch.equal(Views((6, 4)).fit(source, (6, 4)), resize(source, (6, 4)))


def test_crop_cuts_the_middle_out_of_what_covers() -> None:
    seen = Views((4, 4), resize="crop").fit(ramp(4, 9), (4, 4))
    assert (
        seen[1].tolist() == [[2, 3, 4, 5]] * 4
    )  # of 9 columns 5 go: 2 at the left, 3 at the right
    wide = Views((4, 8), resize="crop").fit(ramp(16, 8), (4, 8))
    assert wide[0].tolist() == [[6] * 8, [7] * 8, [8] * 8, [9] * 8]


def test_pad_keeps_all_and_centres_it_on_the_colour() -> None:
    views = Views((8, 8), resize="pad", fill=(7, 8, 9))
    seen = views.fit(ramp(5, 8), (8, 8))
    assert seen[0, :, 0].tolist() == [7, 0, 1, 2, 3, 4, 7, 7]
    assert seen[:, 0, 0].tolist() == [7, 8, 9]
    assert views.fit(ramp(1, 100), (8, 8)).shape == (3, 8, 8)


@pytest.mark.parametrize("mode", ["squash", "crop", "pad"])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 5000), (5000, 1), (3, 7), (640, 480)]
)
def test_any_shape_fits_any_target(mode: str, height: int, width: int) -> None:
    views = Views((6, 10), resize=mode, max_tiles=4)  # type: ignore[arg-type]
    pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    assert views(pixels, (2, 2)).shape == (5, 3, 6, 10)


# --- splitting into squares


def test_the_overview_comes_first_then_the_tiles_row_by_row() -> None:
    views = Views((4, 4), max_tiles=4)
    assert [views.grid(w, h)[0] for w, h in [(7, 8), (8, 8), (80, 80), (8, 4)]] == [
        1,
        2,
        2,
        1,
    ]
    whole = ramp(8, 8)
    seen = views(whole, (2, 2))
    assert views.cells((2, 2)) == [(0, 0), (1, 1), (1, 2), (2, 1), (2, 2)]
    assert torch.equal(seen[0], resize(whole, (4, 4)))
    assert torch.equal(seen[2], whole[:, :4, 4:])
    assert torch.equal(seen[3], whole[:, 4:, :4])
    assert views.cells((1, 1)) == [(0, 0)]


@pytest.mark.parametrize(("side", "view"), [(1344, 672), (1792, 896)])
def test_mm1s_large_pictures_are_five_views(side: int, view: int) -> None:
    """MM1, section 5.1: 5 views, 720 tokens at 144 each."""
    views = Views((view, view), max_tiles=4)
    assert len(views.cells(views.grid(side, side))) == 5
    assert views(torch.zeros(3, side, side, dtype=torch.uint8), (2, 2)).shape == (
        5,
        3,
        view,
        view,
    )


def test_no_picture_is_enlarged_to_be_split_unless_it_must_be() -> None:
    for mode, tall in (
        ("squash", 1),
        ("crop", 1),
        ("pad", 2),
    ):  # padded, 1000 x 3000 becomes 448 x 1344
        views = Views((672, 672), resize=mode, max_tiles=4)  # type: ignore[arg-type]
        assert views.grid(1000, 3000) == (tall, tall)
        assert views.grid(671, 671) == (1, 1)
    always = Views((672, 672), min_tiles=4, max_tiles=4)
    assert always.grid(100, 100) == (2, 2)
    assert Views((4, 4), max_tiles=12).grid(100, 100) == (3, 3)


# --- splitting by shape


def test_the_grids_of_mm15() -> None:
    assert len(MM15.allowed()) == 18
    assert (
        len(Views((672, 672), split="dynamic", min_tiles=4, max_tiles=16).allowed())
        == 45
    )


def test_the_grid_suits_the_picture() -> None:
    expected = {
        (1344, 1344): (2, 2),
        (1792, 1792): (3, 3),
        (1000, 3000): (4, 2),
        (3000, 1000): (2, 4),
        (6048, 672): (1, 9),
        (672, 672): (2, 2),  # 3 x 3 leaves nothing over either: fewest tiles
        (9000, 9000): (3, 3),  # no grid is large enough: the one that shrinks it least
    }
    assert {size: MM15.grid(*size) for size in expected} == expected


def _by_the_book(width: int, height: int, views: Views) -> tuple[int, int]:
    """The rule as MM1.5's readers write it down, in exact fractions: the reference."""
    h, w = views.size
    best = []
    for tiles in range(views.min_tiles, views.max_tiles + 1):
        for rows in range(1, tiles + 1):
            if tiles % rows:
                continue
            columns = tiles // rows
            scale = min(Fraction(rows * h, height), Fraction(columns * w, width))
            padding = rows * h * columns * w - scale**2 * height * width
            best.append(
                (
                    (scale < 1, padding if scale >= 1 else -scale, tiles, rows),
                    (rows, columns),
                )
            )
    return min(best)[1]


def test_many_grids_at_once_are_the_rules() -> None:
    views = Views((6, 8), split="dynamic", min_tiles=2, max_tiles=9)
    sizes = [(w, h) for w in range(1, 25) for h in range(1, 19)] + [
        (1, 10**8),
        (9_999, 10_000),
    ]
    width, height = np.array(sizes).T
    found = list(
        zip(
            *(
                a.tolist()
                for a in views.grids(width, height, *[np.ones_like(width)] * 2)
            ),
            strict=True,
        )
    )
    assert found == [_by_the_book(w, h, views) for w, h in sizes]


def test_the_overview_comes_last_and_the_small_have_none() -> None:
    views = Views((4, 4), split="dynamic", min_tiles=1, max_tiles=4)
    assert views.grid(4, 4) == (1, 1)
    assert views.cells((1, 1)) == [(0, 0)]
    whole = ramp(4, 8)
    assert views.cells((1, 2)) == [(1, 1), (1, 2), (0, 0)]
    seen = views(whole, views.grid(8, 4))
    assert torch.equal(seen[1], whole[:, :, 4:])
    assert torch.equal(seen[2], resize(whole, (4, 4)))


def test_pictures_among_many_are_not_split() -> None:
    assert MM15.grid(2000, 2000, MANY - 1) == (3, 3)
    assert MM15.grid(2000, 2000, MANY) == (1, 1)
    assert Views((4, 4), max_tiles=4).grid(8, 8, MANY) == (
        2,
        2,
    )  # MM1 knows no such limit


@pytest.mark.parametrize("split", ["square", "dynamic"])
def test_only_the_last_pictures_of_many_are_split(split: str) -> None:
    """MM1's prompts of many shots: the last shots and the question in sub-images, those
    before them whole."""
    views = Views((4, 4), split=split, min_tiles=4, max_tiles=4, split_last=2)  # type: ignore[arg-type]
    assert [views.grid(8, 8, 9, number) for number in (1, 7, 8, 9)] == [
        (1, 1),
        (1, 1),
        (2, 2),
        (2, 2),
    ]
    assert views.grid(8, 8) == (2, 2)


# --- the file that travels


def test_the_file_imports_nothing_of_mm1() -> None:
    source = Path(portable.__file__).read_text()
    imports = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    }
    assert imports == {
        "dataclasses",
        "io",
        "jaxtyping",
        "numpy",
        "PIL",
        "torch",
        "typing",
        "warnings",
    }


@pytest.mark.slow
def test_the_file_works_where_there_is_no_mm1(tmp_path: Path) -> None:
    """In a process that can import neither mm1 nor jaxtyping, it gives the views that
    it gives here."""
    source = Path(portable.__file__).read_text()
    lines = [
        line for line in source.splitlines() if not line.startswith("from jaxtyping")
    ]
    (tmp_path / "views.py").write_text(
        "from __future__ import annotations\n" + "\n".join(lines)
    )
    data = picture(70, 40, kind="JPEG").data
    (tmp_path / "picture.jpg").write_bytes(data)
    script = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mm1", "jaxtyping"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import torch
import views
made = views.Views((16, 16), resize="pad", split="dynamic", min_tiles=2, max_tiles=6, fill=(1, 2, 3))
data = open("picture.jpg", "rb").read()
torch.save(made(views.decode(data), made.grid(*views.probe(data))), "seen.pt")
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    views = Views(
        (16, 16),
        resize="pad",
        split="dynamic",
        min_tiles=2,
        max_tiles=6,
        fill=(1, 2, 3),
    )
    here = views(decode(data), views.grid(70, 40))
    assert torch.equal(torch.load(tmp_path / "seen.pt", weights_only=True), here)
