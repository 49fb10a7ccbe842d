"""Search with Python's re, for comparison.

Reads from standard input:   {"patterns": [...], "texts": [...]}
Writes to standard output:   {"text": [[bool, ...] or null, ...], "bytes": [...]}

Each pattern is searched in each text, as str with IGNORECASE, and as bytes with IGNORECASE and
DOTALL; null where Python refuses the pattern.
"""

import json
import re
import sys
import warnings

warnings.simplefilter("ignore")


def search(pattern, texts, flags):
    try:
        compiled = re.compile(pattern, flags)
    except (re.error, OverflowError):
        return None
    return [compiled.search(text) is not None for text in texts]


def main():
    job = json.load(sys.stdin)
    texts = job["texts"]
    raw = [text.encode() for text in texts]
    json.dump(
        {
            "text": [search(p, texts, re.I) for p in job["patterns"]],
            "bytes": [search(p.encode(), raw, re.I | re.S) for p in job["patterns"]],
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
