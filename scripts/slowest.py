#!/usr/bin/env python3
"""Prints where the last run of the tests spent its time: the slowest tests, and the sums of the test modules.

usage: scripts/slowest.py [--profile default|ci|soak] [COUNT]
"""

import argparse
import collections
import os
import pathlib
import xml.etree.ElementTree

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--profile", default="ci" if os.environ.get("CI") == "true" else "default")
parser.add_argument("count", nargs="?", type=int, default=30)
args = parser.parse_args()

root = pathlib.Path(__file__).resolve().parent.parent
target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
report = target / "nextest" / args.profile / "junit.xml"
if not report.exists():
    parser.exit(2, f"there is no {report}; run scripts/test.sh first\n")

tests, modules = [], collections.Counter()
for suite in xml.etree.ElementTree.parse(report).iter("testsuite"):
    for case in suite.iter("testcase"):
        seconds = float(case.get("time") or 0)
        tests.append((seconds, f"{suite.get('name')} {case.get('name')}"))
        modules[f"{suite.get('name')} {case.get('name').split('::')[0]}"] += seconds

print(f"{len(tests)} tests took {sum(seconds for seconds, _ in tests):.0f} s, side by side")
for title, rows in ("tests", sorted(tests, reverse=True)), ("modules", [(s, n) for n, s in modules.most_common()]):
    print(f"\nslowest {title}")
    for seconds, name in rows[: args.count]:
        print(f"{seconds:8.1f} s  {name}")
