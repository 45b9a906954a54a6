"""How long a message is, wherever the tests' temporary folder lies."""

import re


def length(sentence):
    """Of a sentence, with a temporary folder of pytest's counted as ``/tmp``."""
    return len(re.sub(r"/[^\s']*/pytest-of-[^/]+/pytest-\d+(/popen-gw\d+)?", "/tmp", sentence))
