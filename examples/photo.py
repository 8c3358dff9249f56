#!/usr/bin/env python3
"""Makes photo.jpg: a landscape that never was, held like a phone's upright photo (EXIF orientation 6), with a place in it.

    python3 examples/photo.py examples/photo.jpg     # needs Pillow
"""

import math
import random
import sys

from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 900, 1200


def ridge(dice, base, height):
    """A line of hills from waves of many lengths."""
    waves = [(dice.random() * 6.3, 2.0 ** power, height / 1.8 ** power) for power in range(8)]
    return [base - sum(size * math.sin(shift + 3 * pace * x / WIDTH) for shift, pace, size in waves) for x in range(WIDTH)]


def landscape():
    dice = random.Random(11)
    picture = Image.new("RGB", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(picture)
    for y in range(HEIGHT):
        share = y / HEIGHT
        draw.line([(0, y), (WIDTH, y)], fill=(int(90 + 150 * share), int(150 + 80 * share), int(225 - 10 * share)))
    for radius in range(90, 0, -1):
        glow = 1 - radius / 90
        fill = tuple(int(a + (b - a) * min(1, glow * 2)) for a, b in zip((140, 180, 225), (255, 240, 170)))
        draw.ellipse([700 - radius, 200 - radius, 700 + radius, 200 + radius], fill=fill)
    hills = [(560, 60, (110, 125, 150)), (690, 70, (80, 110, 105)), (830, 60, (62, 105, 60)), (980, 50, (70, 140, 48))]
    for base, height, (red, green, blue) in hills:
        for x, top in enumerate(ridge(dice, base, height)):
            shade = dice.randint(-6, 6)
            draw.line([(x, top), (x, HEIGHT)], fill=(red + shade, green + shade, blue + shade))
    for _ in range(2600):
        y = int(HEIGHT - 190 * dice.random() ** 1.6)
        x, size = dice.randrange(WIDTH), 1 + int(5 * (y - 1000) / 200)
        fill = dice.choice([(230, 70, 60), (245, 215, 80), (250, 250, 245), (90, 165, 60), (50, 120, 40)])
        draw.ellipse([x - size, y - size, x + size, y + size], fill=fill)
    return picture.filter(ImageFilter.GaussianBlur(0.8))


def main(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F], exif[0x0110] = "afterload", "examples/photo.py"
    place = exif.get_ifd(0x8825)
    place[1], place[2], place[3], place[4] = "N", (47.0, 22.0, 0.0), "E", (8.0, 32.0, 0.0)
    # A sensor lies on its side when the phone stands upright.
    landscape().transpose(Image.Transpose.ROTATE_90).save(path, quality=84, exif=exif)


if __name__ == "__main__":
    main(sys.argv[1])
