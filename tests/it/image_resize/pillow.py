"""Pillow beside `image.resize`: makes pictures of every kind, and says how far results are from its own.

    pillow.py make FOLDER      writes sources
    pillow.py compare FOLDER   reads FOLDER/results.json, a list of [source, result, settings], and prints a line for each
                               result that is not what Pillow would have made
    pillow.py sizes FOLDER     prints the sizes of the pictures below a folder that can be read to their end
    pillow.py metadata FOLDER  prints what each picture carries besides its pixels
"""

import io
import json
import math
import sys
import warnings
from pathlib import Path

from PIL import Image, ImageChops, ImageCms, ImageOps


def photo(width, height):
    """Smooth colours with some detail, such as photos have; never the same twice in a row or column."""
    picture = Image.new("RGB", (width, height))
    picture.putdata([
        (int(127 + 120 * math.sin(x / 17)), int(127 + 120 * math.cos(y / 13)), int(255 * x * y / (width * height)))
        for y in range(height) for x in range(width)
    ])
    return picture


def sources(folder):
    rgb = photo(150, 100)
    alpha = Image.linear_gradient("L").resize(rgb.size)
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    grey = rgb.convert("L")
    save = lambda name, picture, **more: picture.save(folder / name, **more)
    save("rgb.png", rgb)
    save("rgba.png", rgba)
    save("grey.png", grey)
    save("grey-alpha.png", rgba.convert("LA"))
    save("palette.png", rgb.quantize(64))
    save("palette-alpha.png", rgba.quantize(64))
    save("palette-key.png", rgb.quantize(64), transparency=3)
    save("bits.png", grey.point(lambda v: 255 * (v > 127)).convert("1"))
    save("key.png", rgb, transparency=rgb.getpixel((3, 4)))
    save("sixteen.png", grey.convert("I").point(lambda v: v * 257).convert("I;16"))
    save("rgb.jpg", rgb, quality=92, subsampling=0)
    save("420.jpg", rgb, quality=92)
    save("422.jpg", rgb, quality=92, subsampling=1)
    save("odd.jpg", photo(333, 217), quality=92)
    save("progressive.jpg", rgb, quality=92, progressive=True)
    save("restarts.jpg", rgb, quality=92, restart_marker_rows=1)
    save("grey.jpg", grey, quality=92)
    save("cmyk.jpg", rgb.convert("CMYK"), quality=92)
    save("large.jpg", photo(800, 600), quality=92)
    save("tiny.jpg", photo(9, 5), quality=95)
    save("line.jpg", photo(600, 2), quality=95)
    save("lossy.webp", rgb, quality=90)
    save("lossless.webp", rgba, lossless=True)
    save("lossy-alpha.webp", rgba, quality=90)
    frames = [photo(60, 40).rotate(45 * n) for n in range(3)]
    save("animated.webp", frames[0], save_all=True, append_images=frames[1:], lossless=True)
    save("still.gif", rgb.quantize(128))
    save("animated.gif", frames[0].quantize(32), save_all=True, append_images=[f.quantize(32) for f in frames[1:]])
    save("transparent.gif", rgb.quantize(32), transparency=2)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        exif[0x010F] = "A camera"
        exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
        for kind in ["jpg", "png", "webp"]:
            more = {"lossless": True} if kind == "webp" else {}
            save(f"exif-{orientation}.{kind}", photo(96, 64), exif=exif, **more)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    save("srgb.jpg", rgb, quality=92, icc_profile=srgb)


def shown(path):
    """What people should see, as RGBA."""
    picture = Image.open(path)
    picture.seek(0)
    picture.load()
    profile = picture.info.get("icc_profile")
    gamma = picture.info.get("gamma", 0.45)
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        picture = picture.convert("I").point(lambda v: v / 256).convert("L")
    if profile and picture.mode == "RGB":
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        picture = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"))
    if picture.mode == "P" and "transparency" not in picture.info:
        picture = picture.convert("RGB")
    picture = picture.convert("RGBA")
    if not 0.45 <= gamma <= 0.46:
        curve = [round(255 * srgb_from_light((level / 255) ** (1 / gamma))) for level in range(256)]
        picture = picture.point(curve * 3 + list(range(256)))
    return picture


def srgb_from_light(light):
    """The value of a channel in sRGB; Pillow ignores the gAMA of a PNG."""
    return 12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055


def difference(expected, found):
    """Mean and largest difference of a channel, transparent pixels being equal whatever their colour."""
    total = largest = 0
    for one, other in zip(*(picture.convert("RGBa").split() for picture in (expected, found))):
        apart = ImageChops.difference(one, other)
        total += sum(level * count for level, count in enumerate(apart.histogram()))
        largest = max(largest, apart.getextrema()[1])
    return total / (4 * expected.width * expected.height), largest


def compare(folder):
    for source, result, settings in json.loads((folder / "results.json").read_text()):
        expected, found = shown(folder / source), Image.open(folder / result)
        if "background" in settings:
            expected = Image.alpha_composite(Image.new("RGBA", expected.size, settings["background"]), expected)
        metadata = [key for key in ("exif", "icc_profile", "xmp", "comment") if found.info.get(key)]
        if metadata and not settings.get("metadata"):
            print(f"{result}: it carries {metadata}")
        found = found.convert("RGBA")
        if found.size != expected.size:
            if settings.get("same"):
                print(f"{result}: {found.size} instead of {expected.size}")
            expected = expected.resize(found.size, Image.Resampling.LANCZOS)
        mean, largest = difference(expected, found)
        if mean > settings["mean"] or largest > settings["largest"]:
            print(f"{result}: off by {mean:.2f} in the mean and {largest} at most, for {settings}")


def sizes(folder):
    """The size of each picture below a folder that can be read to its end, of the formats that are of interest."""
    warnings.simplefilter("ignore")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            with Image.open(path, formats=["JPEG", "PNG", "GIF", "WEBP"]) as picture:
                picture.seek(0)
                picture.load()
                picture = ImageOps.exif_transpose(picture)
                print(f"{path.relative_to(folder)}\t{picture.width}x{picture.height}")
        except Exception:
            pass


def metadata(folder):
    for path in sorted(folder.iterdir()):
        if path.suffix == ".json":
            continue
        picture = Image.open(path)
        exif = picture.getexif()
        told = []
        if exif:
            told += ["exif", f"orientation={exif.get(0x0112)}"]
            told += ["camera"] * (exif.get(0x010F) == "A camera") + ["gps"] * bool(exif.get_ifd(0x8825))
        told += [key for key in ("icc_profile", "xmp", "comment") if picture.info.get(key)]
        print(f"{path.name}: {' '.join(told) or 'nothing'}")


if __name__ == "__main__":
    {"make": sources, "compare": compare, "metadata": metadata, "sizes": sizes}[sys.argv[1]](Path(sys.argv[2]))
