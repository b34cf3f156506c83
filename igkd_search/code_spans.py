"""Text that users chose, in Markdown: within code spans it means nothing but itself."""

import re


def code(text: object) -> str:
    """A code span that shows this text, whatever is in it."""
    plain = " ".join(str(text).split()) or " "
    longest = max((len(run) for run in re.findall("`+", plain)), default=0)
    fence = "`" * (longest + 1)
    padded = f" {plain} " if plain.startswith("`") or plain.endswith("`") else plain
    return f"{fence}{padded}{fence}"
