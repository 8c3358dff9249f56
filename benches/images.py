#!/usr/bin/env python3
"""Photos to three JPEGs of 1200, 400 and 100 pixels at quality 80, beside sharp (libvips), the fastest that people use.

    python3 benches/images.py

builds the benchmark, fetches sharp from npm into target/, makes photo-like sources, and prints a table of CPU (user + system).
It needs python3, and Node.js with npm. Ours calls the step's own functions: one decoding for all styles. sharp makes each style
from the source, as its manual shows; beside it, what can be had from it by hand, each style from the one before. All work in
one thread at a time on files in memory. Rounds are interleaved; medians are shown. PSNR (dB) and SSIM compare results with what
libvips makes without any short cut.
"""

import argparse
import json
import os
import subprocess
from pathlib import Path

from harness import ROOT, median, table

SHARP = "0.35.5"
SIZES = [1200, 400, 100]
SOURCES = ["12mp.jpg", "24mp.jpg", "24mp-progressive.jpg", "24mp.png", "24mp.webp"]


def program():
    """The benchmark, built."""
    command = ["cargo", "build", "--release", "--bench", "images", "--message-format", "json"]
    built = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    messages = (json.loads(line) for line in built.splitlines())
    return next(found["executable"] for found in messages if found.get("target", {}).get("name") == "images" and found.get("executable"))


class Sharp:
    def __init__(self, folder):
        self.folder = folder
        if not (folder / "node_modules" / "sharp").exists():
            subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, f"sharp@{SHARP}"], check=True)

    def run(self, *arguments):
        script = Path(__file__).with_name("images.mjs")
        command = ["node", script, *map(str, arguments)]
        environment = os.environ | {"SHARP": str(self.folder)}
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def measure(sharp, ours, source, folder, rounds):
    """CPU of all rounds by way, and the folder of the results of each."""
    repeats = 10
    seen = {way: [] for way in ("each", "cascade", "ours")}
    places = {way: folder / f"results-{way}" for way in seen}
    for place in places.values():
        place.mkdir(exist_ok=True)
    styles = [f"s{size}={size}x{size}>" for size in SIZES]
    for _ in range(rounds):
        for way in ("each", "cascade"):
            seen[way].append(float(sharp.run(way, source, repeats, places[way], *SIZES)))
        run = subprocess.run([ours, source, str(repeats), places["ours"], *styles], check=True, stdout=subprocess.PIPE, text=True)
        seen["ours"].append(float(run.stdout))
    return {way: median(times) for way, times in seen.items()}, places


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=SOURCES, action="append")
    parser.add_argument("--binary", help="the benchmark, if it is built already")
    arguments = parser.parse_args()
    folder = ROOT / "target" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    ours = arguments.binary or program()
    sharp = Sharp(folder)
    if not all((folder / name).exists() for name in SOURCES):
        sharp.run("make", folder)
    costs, looks = [], []
    for name in arguments.only or SOURCES:
        source = folder / name
        times, places = measure(sharp, ours, source, folder, arguments.rounds)
        costs.append([name, *times.values(), times["ours"] / times["each"], times["ours"] / times["cascade"]])
        for size in SIZES:
            files = [places[way] / f"s{size}.jpg" for way in ("each", "ours")]
            judged = [line.split() for line in sharp.run("judge", source, size, *files).splitlines()]
            looks.append([f"{name} {size}", *(cell for file, pair in zip(files, judged) for cell in [*pair, file.stat().st_size])])
    table(["CPU ms", "sharp, each", "sharp, cascade", "afterload", "to each", "to cascade"], costs)
    table(["results", "sharp dB", "SSIM", "bytes", "ours dB", "SSIM", "bytes"], looks)


if __name__ == "__main__":
    main()
