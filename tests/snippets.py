"""Code blocks of the README and the pages: found, made small, and run in a small world.

A block that holds commands of `slowflow`, or Python, is run; one under `<!-- not run: REASON -->` is only parsed. Blocks with
another language (`text`, `toml`, ...) are not code.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)
SKIP = re.compile(r"<!-- not run: (.+?) -->\s*\Z")
FILE = re.compile(r"\A# (?:file: )?(\w+\.py)\n")
COMMANDS = ("slowflow ", "python ", "pip ", "make ")
SMALL = {
    "measure": {"--samples": "24", "--steps": "4"},
    "diagnose": {"--samples": "24"},
    "calibrate": {"--samples": "24", "--steps": "4", "--reference": "level"},
    "posttrain": {"--steps": "2"},
    "sample": {"--n": "4", "--steps": "3"},
    "evaluate": {"--samples": "24", "--steps": "4"},
    "run": {"--samples": "24", "--steps": "4", "--eval-steps": "4", "--train-steps": "2"},
}
"""Options of a verb and the value that a test gives them."""
RELIED_ON = ("run", "calibrate", "measure")
"""Verbs whose options are given even where the page does not name them: their defaults would take minutes."""


@dataclass(frozen=True)
class Block:
    """One fenced block: where it stands, what it holds, and why it is not run."""

    page: str
    line: int
    language: str
    text: str
    reason: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Lines that are commands, without their remarks."""
        if self.language not in ("", "bash", "console"):
            return []
        return [line.strip() for line in self.text.splitlines() if line.strip().startswith(COMMANDS)]

    @property
    def python(self) -> bool:
        return self.language == "python"

    @property
    def module(self) -> str | None:
        """The file this block is to be saved as, where it says so."""
        found = FILE.match(self.text)
        return found[1] if found and self.python else None


def blocks(page: Path) -> list[Block]:
    """Every block of a page, in order."""
    text, name = page.read_text(encoding="utf-8"), str(page.relative_to(ROOT))
    found = []
    for match in FENCE.finditer(text):
        reason = SKIP.search(text[: match.start()])
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(name, line, match[1], match[2], reason[1] if reason else ""))
    return found


def small_command(line: str) -> list[str]:
    """The words of a command, with fewer samples and steps than the page says."""
    words = shlex.split(line, comments=True)
    verb, rest = words[1], words[2:]
    values, seen = SMALL.get(verb, {}), dict.fromkeys(SMALL.get(verb, {}), 0)
    for place, word in enumerate(rest[:-1]):
        if word in values:
            # a repeated option keeps its values apart
            rest[place + 1] = str(int(values[word]) + 2 * seen[word]) if values[word].isdigit() else values[word]
            seen[word] += 1
    missing = [x for key, n in seen.items() if not n and verb in RELIED_ON for x in (key, values[key])]
    return [verb, *rest, *missing]


def small_python(text: str) -> str:
    """The same code with fewer samples and steps."""
    return re.sub(r"\bsteps=\d{2,}", "steps=4", re.sub(r"\bsamples=\d{3,}", "samples=24", text))
