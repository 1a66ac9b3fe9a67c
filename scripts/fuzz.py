"""Throw hostile and broken input at every border of embedrl, and print what is not refused in one line.

Whatever is not an `EmbedRLError`, takes too long or takes too much memory is a finding: its seed and its smallest input
are printed. The same seed gives the same cases:

    python scripts/fuzz.py --minutes 10 --seed 1
    python scripts/fuzz.py --targets pictures --seed 57 --rounds 1    # a finding again
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import sys
import time
from dataclasses import asdict

from fuzzing.harness import Round, run_round
from fuzzing.targets import TARGETS


def main(words: list[str] | None = None) -> int:
    """Run the fuzz.

    Args:
        words: The command line; None means that of the process.

    Returns:
        The exit code: 1 if there is a finding.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="time for all targets together")
    parser.add_argument("--seed", type=int, default=0, help="the first seed of each target; its rounds count on")
    parser.add_argument("--rounds", type=int, default=10**6, help="most rounds of a target")
    parser.add_argument("--cases", type=int, default=100, help="cases of a round")
    parser.add_argument("--targets", nargs="+", choices=[*TARGETS], default=[*TARGETS])
    options = parser.parse_args(words)
    total, findings = 0, 0
    for name in options.targets:
        began, report, known, number = time.monotonic(), Round(), set[str](), options.seed
        end = began + options.minutes * 60 / len(options.targets)
        while number < options.seed + options.rounds and time.monotonic() < end:
            print(f"{name}: seed {number}", file=sys.stderr, flush=True)  # the last line if the process is killed
            one = run_round(name, TARGETS[name], number, options.cases, end, known)
            for finding in one.findings:
                print(json.dumps(asdict(finding)), flush=True)
            report.cases, report.refused = report.cases + one.cases, report.refused + one.refused
            report.findings += one.findings
            number += 1
        line = {
            "target": name, "seeds": [options.seed, number - 1], "cases": report.cases, "refused": report.refused,
            "findings": len(report.findings), "seconds": round(time.monotonic() - began, 1),
        }  # fmt: skip
        print(json.dumps(line), flush=True)
        total, findings = total + report.cases, findings + len(report.findings)
    print(json.dumps({"cases": total, "findings": findings}), flush=True)
    return int(findings > 0)


if __name__ == "__main__":
    faulthandler.enable()  # a library that crashes takes the process with it
    sys.exit(main())
