"""A preprocessor of mdBook: links that leave `docs/` work on a forge, but not on a website of the book.

With `repository` in book.toml (such as `https://forge.example/afterload/blob/main`) they lead there; without it they become
plain text.
"""

import json
import posixpath
import re
import sys

LINK = re.compile(r"(?<!!)\[((?:`[^`\n]*`|[^\]`])*)\]\(((?:\.\./)+[^)\s#]*)(#[^)\s]*)?\)")


def rewrite_links(content, repository):
    def replace(match):
        text, path, anchor = match[1], posixpath.normpath(posixpath.join("docs", match[2])), match[3] or ""
        return f"[{text}]({repository}/{path}{anchor})" if repository else text

    parts = re.split(r"(^```.*?^```$)", content, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else LINK.sub(replace, part) for part in parts)


def rewrite_chapters(items, repository):
    for item in items:
        chapter = item.get("Chapter") if isinstance(item, dict) else None
        if chapter:
            chapter["content"] = rewrite_links(chapter["content"], repository)
            rewrite_chapters(chapter["sub_items"], repository)


if len(sys.argv) > 1 and sys.argv[1] == "supports":
    sys.exit(0)
context, book = json.load(sys.stdin)
settings = context["config"].get("preprocessor", {}).get("outside-links", {})
rewrite_chapters(book["items"], settings.get("repository", "").rstrip("/"))
json.dump(book, sys.stdout)
