"""What README and the pages hold that can be run or followed: code blocks, commands, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
EXCUSE = "*Not run by the tests: "  # how the sentence below a block begins that only a reader can run
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = ("dfq", "make", "pip", "python", "pytest", "torchrun", "accelerate")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: name of the file.
        line: where its content begins.
        language: what stands behind the fence.
        text: its content.
        excused: whether the sentence below says why it is not run.
    """

    page: str
    line: int
    language: str
    text: str
    excused: bool

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """The blocks of all pages in these languages, or in any."""
    found = []
    for name, path in PAGES.items():
        text = path.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if not languages or match[1] in languages:
                line = text.count("\n", 0, match.start(2)) + 1
                excused = text[match.end() :].lstrip("\n").startswith(EXCUSE)
                found.append(Block(name, line, match[1], match[2], excused))
    return found


def commands() -> dict[str, list[str]]:
    """Every command in a console block or between backticks, without comment and redirection, as words."""
    found = {}
    for block in blocks("console"):
        for line in block.text.splitlines():
            if line.startswith("$ "):
                found[f"{block.page}: {line[2:]}"] = _words(line[2:])
    for name, path in PAGES.items():
        prose = FENCE.sub("", path.read_text(encoding="utf-8"))
        for code in re.findall(r"`([^`\n]+)`", prose):
            if code.startswith(tuple(f"{command} " for command in COMMANDS)):
                found[f"{name}: {code}"] = _words(code)
    return found


def _words(line: str) -> list[str]:
    words = shlex.split(line, comments=True)
    return words[: words.index(">")] if ">" in words else words


def links() -> Iterator[tuple[str, str]]:
    """Every link, as page and target."""
    for name, path in PAGES.items():
        prose = FENCE.sub("", path.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            yield name, target


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links, on GitHub and on the site."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def tables(page: str, heading: str) -> list[list[str]]:
    """The rows of all tables below a heading and above the next of its kind, each a list of cells; heads left out."""
    text = PAGES[page].read_text(encoding="utf-8")
    level = heading.split(maxsplit=1)[0]
    section = re.split(rf"^{level} ", text.split(f"\n{heading}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]
    lines = section.splitlines()
    rows = []
    for index, line in enumerate(lines):
        is_head = index + 1 < len(lines) and lines[index + 1].startswith("|---")
        if line.startswith("|") and not line.startswith("|---") and not is_head:
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows
