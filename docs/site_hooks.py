"""What the site does with a page before it is rendered.

Examples are written as doctests, so that the tests run them. On the site their blocks are marked as
sessions: prompts and outputs are coloured as such, and assets/site.css leaves both out of what the
copy button copies.
"""

import re
from typing import Any

_BLOCK = re.compile(r"^```python\n(?=>>> )", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Marks blocks that begin with a prompt as sessions."""
    return _BLOCK.sub("```pycon\n", markdown)
