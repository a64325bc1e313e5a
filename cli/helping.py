"""Help as a person reads it: verbs grouped by job with their whole first sentence, examples as they would be typed."""

from __future__ import annotations

import textwrap
from typing import Any

import typer
from slowflow_cli.examples import EXAMPLES
from typer.core import TyperCommand, TyperGroup


class Verbs(TyperGroup):
    """The list of verbs under the headings of their jobs."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """One section a job, in the order in which verbs were added."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            words = command.get_short_help_str(limit=200)
            panels.setdefault(command.rich_help_panel or "Commands", []).append((name, words))
        width = max((len(name) for rows in panels.values() for name, _ in rows), default=0)
        for title, rows in panels.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), words) for name, words in rows])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Where to begin."""
        _examples(formatter, (self.epilog or "").splitlines())


class Verb(TyperCommand):
    """One verb; its examples stand on their own lines."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """What is missing or wrong is said with a line that works."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            said, lines = error.format_message(), EXAMPLES.get(self.name or "", ())
            ctx.fail("\n\n".join([said, *(f"For example:\n  {line}" for line in lines[:1])]))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """MODEL, not {MODEL}."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The examples of this verb."""
        _examples(formatter, EXAMPLES.get(self.name or "", ()))


def _examples(formatter: Any, lines: Any) -> None:
    """Commands that can be pasted: a long one goes on after a backslash."""
    if not lines:
        return
    formatter.write_paragraph()
    formatter.write("Examples:\n")
    for line in lines:
        parts = textwrap.wrap(line, formatter.width - 6, break_long_words=False, break_on_hyphens=False)
        formatter.write("  " + " \\\n      ".join(parts) + "\n")
