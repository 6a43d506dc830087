"""Changes the rooms that decide, one place at a time, and tells which changes no test notices.

    PYTHONPATH=tests:. python -m mutants [ROOM …] [--sample N --seed S] [--at FILE[:LINE]]

The same mutants and the same outcomes each time, but for those that are stopped for their time.
"""

import argparse
import ast
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from mutants.judging import KILLED, SURVIVED, TIMEOUT, UNTESTED, judge
from mutants.operators import Mutant, mutants

ROOT = Path(__file__).resolve().parents[2]
_NUMBERS = (
    "tests/test_compare.py", "tests/test_decide.py", "tests/test_methods.py",
    "tests/test_stopping.py",
)  # fmt: skip
ROOMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "compare": (("gate/compare.py",), _NUMBERS),
    "decide": (("gate/decide.py",), _NUMBERS),
    "statistics": (
        ("gate/statistics/*.py",), ("tests/statistics", "tests/test_planning.py", *_NUMBERS),
    ),
    "policy": (
        ("gate/policy.py", "gate/policy_file.py", "gate/policy_faults.py"),
        ("tests/test_policy.py", "tests/test_policy_files.py"),
    ),
    "promote": (
        ("gate/commands/promote.py", "gate/commands/_promote_*.py"),
        ("tests/commands/test_promote.py", "tests/commands/test_promote_backing.py",
         "tests/commands/test_promote_store.py", "tests/commands/test_promote_text.py",
         "tests/commands/test_rollback.py", "tests/commands/test_audit.py"),
    ),
}  # fmt: skip
"""Files, and the tests that answer for them."""


def main() -> int:
    """Judge what was asked for; 1 where too many survive."""
    asked = _asked()
    os.chdir(ROOT)
    enough = [_room(name, asked) for name in asked.rooms or ROOMS]
    return 0 if all(enough) else 1


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__)
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help=f"of {', '.join(ROOMS)}")
    parser.add_argument("--sample", type=int, metavar="N", help="so many of each room, drawn")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the draw")
    parser.add_argument("--at", metavar="FILE[:LINE]", help="only these")
    parser.add_argument("--again", type=Path, metavar="OUTPUT", help="those that survived there")
    parser.add_argument("--least", type=float, default=90, metavar="PERCENT", help="to be killed")
    asked = parser.parse_args()
    unknown = set(asked.rooms) - ROOMS.keys()
    if unknown:
        parser.error(f"no such room: {', '.join(sorted(unknown))}")
    return asked


def _room(name: str, asked: argparse.Namespace) -> bool:
    """Whether enough of a room's mutants are killed."""
    began, counts = time.monotonic(), Counter[str]()
    chosen = _chosen(name, asked)
    if not chosen:
        return True
    print(f"{name}: {sum(map(len, chosen.values()))} mutants", flush=True)

    def told(file: str, mutant: Mutant, outcome: str) -> None:
        counts[outcome] += 1
        if outcome != KILLED:
            print(f"  {outcome}  {_place(file, mutant)}", flush=True)

    for fault in judge(ROOT, chosen, ROOMS[name][1], told):
        print(f"  {fault}", flush=True)
    killed, total = counts[KILLED] + counts[TIMEOUT], sum(counts.values())
    share = 100 * killed / max(total, 1)
    print(
        f"{name}: {killed} of {total} killed, {share:.1f} % ({counts[TIMEOUT]} by their time); "
        f"{counts[SURVIVED] + counts[UNTESTED]} survived, {counts[UNTESTED]} of them run by no "
        f"test; {time.monotonic() - began:.0f} s",
        flush=True,
    )
    return share >= asked.least


def _every(room: str) -> Iterator[tuple[str, int, Mutant]]:
    for pattern in ROOMS[room][0]:
        for path in sorted(ROOT.glob(pattern)):
            made = mutants(ast.parse(path.read_text(encoding="utf-8")))
            yield from ((path.relative_to(ROOT).as_posix(), *one) for one in enumerate(made))


def _place(file: str, mutant: Mutant) -> str:
    return f"{file}:{mutant.line}:{mutant.column + 1}  {mutant}"


def _chosen(room: str, asked: argparse.Namespace) -> dict[str, list[int]]:
    """Files, and the numbers of their mutants."""
    file, _, line = (asked.at or "").partition(":")
    told = asked.again.read_text(encoding="utf-8").splitlines() if asked.again else None
    every = [
        (name, number)
        for name, number, mutant in _every(room)
        if not file or (name == file and (not line or mutant.line == int(line)))
        if told is None or any(one.endswith(_place(name, mutant)) for one in told)
    ]
    if asked.sample is not None and asked.sample < len(every):
        every = sorted(random.Random(asked.seed).sample(every, asked.sample))
    chosen = defaultdict[str, list[int]](list)
    for name, number in every:
        chosen[name].append(number)
    return dict(chosen)


if __name__ == "__main__":
    sys.exit(main())
