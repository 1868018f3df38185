"""Photos in, distances out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from surgeon import Preprocessing
from surgeon.errors import ImageError
from surgeon.imaging.files import find_images
from surgeon.imaging.metrics import psnr, relative, ssim
from surgeon.imaging.photos import load_photo, load_photos, photo_of
from surgeon.registry import registry

RGB = Preprocessing((3, 32, 32), resize=32)
GREY = Preprocessing((1, 32, 32), resize=32)


def save(path, mode, size=(40, 60), colour=None):
    rng = np.random.default_rng(0)
    if colour is None:
        bands = len(Image.new(mode, (1, 1)).getbands())
        array = rng.integers(0, 256, (*size, bands), dtype=np.uint8)
        Image.fromarray(array.squeeze(), mode if bands == 1 else None).convert(mode).save(path)
    else:
        Image.new(mode, size, colour).save(path)
    return path


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1", "LA"])
@pytest.mark.parametrize("preprocessing", [RGB, GREY])
def test_every_mode_becomes_what_the_model_takes(tmp_path, mode, preprocessing):
    suffix = "tif" if mode == "CMYK" else "png"
    source = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    ).convert(mode)
    source.save(tmp_path / f"a.{suffix}")
    photo = load_photo(tmp_path / f"a.{suffix}", preprocessing)
    assert photo.pixels.shape == (1, *preprocessing.input_size)
    assert photo.pixels.dtype == torch.float32
    assert 0 <= photo.pixels.min() <= photo.pixels.max() <= 1
    same = mode == ("RGB" if preprocessing is RGB else "L")
    assert bool(photo.notes) is not same


def test_transparency_is_flattened_on_white_and_said(tmp_path):
    Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    photo = load_photo(tmp_path / "clear.png", RGB)
    assert torch.equal(photo.pixels, torch.ones(1, 3, 32, 32))
    assert "transparency flattened on white" in photo.notes


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    array = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(array).save(tmp_path / "deep.png")
    photo = load_photo(tmp_path / "deep.png", GREY)
    torch.testing.assert_close(
        photo.pixels[0, 0], torch.from_numpy(array / 65535).float(), atol=1 / 255, rtol=0
    )


def test_pixels_of_the_right_size_are_left_as_they_are(tmp_path):
    array = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    photo = load_photo(tmp_path / "a.png", RGB)
    assert torch.equal(photo.pixels[0].permute(1, 2, 0), torch.from_numpy(array) / 255)


@pytest.mark.parametrize("size", [(1, 1), (31, 500), (2000, 20), (33, 33)])
def test_any_size_fits(tmp_path, size):
    Image.new("RGB", size, (9, 9, 9)).save(tmp_path / "a.png")
    assert load_photo(tmp_path / "a.png", RGB).pixels.shape == (1, 3, 32, 32)


def test_the_camera_was_held_sideways(tmp_path):
    image = Image.new("RGB", (32, 32), "black")
    image.paste("white", (0, 0, 32, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif, quality=100)
    pixels = load_photo(tmp_path / "a.jpg", RGB).pixels
    assert pixels[0, 0, 16, 30] > 0.9
    assert pixels[0, 0, 16, 1] < 0.1


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + b"\x00" * 50])
def test_corrupt_files(tmp_path, content):
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"bad\.png"):
        load_photo(tmp_path / "bad.png", RGB)


def test_half_a_file(tmp_path):
    whole = save(tmp_path / "a.png", "RGB").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match="can't be read"):
        load_photo(tmp_path / "half.png", RGB)


def test_a_huge_image_is_refused_before_it_is_unpacked(tmp_path):
    Image.new("1", (20_000, 10_000)).save(tmp_path / "huge.png")
    with pytest.raises(ImageError, match="200,000,000 pixels"):
        load_photo(tmp_path / "huge.png", RGB)


def test_missing_images_name_the_nearest(tmp_path):
    save(tmp_path / "photo.jpg", "RGB")
    with pytest.raises(ImageError, match=r"photo\.jpg"):
        find_images(str(tmp_path / "phto.jpg"))
    with pytest.raises(ImageError, match="chelsea"):
        find_images("surgeon:chelsey")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="none in this folder"):
        find_images(str(tmp_path / "empty"))


def test_folders_and_packaged_photos(tmp_path):
    for name in ("b", "a"):
        save(tmp_path / f"{name}.png", "RGB")
    (tmp_path / "notes.txt").write_text("no image")
    assert [p.name for p in load_photos(str(tmp_path), RGB)] == ["a", "b"]
    for entry in registry().all("image"):
        assert load_photos(f"surgeon:{entry.name}", RGB)[0].pixels.std() > 0.05


def test_a_tensor_is_a_photo_too():
    assert photo_of(torch.rand(3, 8, 8)).pixels.shape == (1, 3, 8, 8)


def test_psnr_by_hand():
    a, b = torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 0.1)
    assert psnr(a, b) == pytest.approx(20, abs=1e-5)
    assert psnr(a, a) == math.inf
    assert relative(b, a) == pytest.approx(1)


def ssim_by_hand(a, b, window=7):
    """Wang 2004 with a uniform window and unbiased variances, as scikit-image documents it."""
    kernel = torch.ones(1, 1, window, window, dtype=torch.float64) / window**2
    norm = window**2 / (window**2 - 1)
    values = []
    for x, y in zip(a.double()[0], b.double()[0], strict=True):
        x, y = x[None, None], y[None, None]
        mx, my = F.conv2d(x, kernel), F.conv2d(y, kernel)
        vx = norm * (F.conv2d(x * x, kernel) - mx * mx)
        vy = norm * (F.conv2d(y * y, kernel) - my * my)
        cov = norm * (F.conv2d(x * y, kernel) - mx * my)
        c1, c2 = 0.01**2, 0.03**2
        top = (2 * mx * my + c1) * (2 * cov + c2)
        values.append((top / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())
    return float(sum(values) / len(values))


def test_ssim_by_hand():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(1, 3, 20, 24, generator=generator), torch.rand(1, 3, 20, 24)
    assert ssim(a, b) == pytest.approx(ssim_by_hand(a, b), abs=1e-9)
    assert ssim(a, a) == pytest.approx(1)


def test_files_of_one_name_are_told_apart(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (16, 16), "red" if folder == "x" else "blue").save(
            tmp_path / folder / "a.png"
        )
    Image.new("RGB", (16, 16), "green").save(tmp_path / "x" / "a.jpg")
    Image.new("RGB", (16, 16), "green").save(tmp_path / "x" / "b.jpg")
    pre = Preprocessing((3, 16, 16))
    assert [p.name for p in load_photos("x", pre)] == ["a.jpg", "a.png", "b"]
    names = [p.name for p in load_photos(["x", "y"], pre)]
    assert names == ["a.jpg", "a.png (2)", "b", "a.png (4)"]
