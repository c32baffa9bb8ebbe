"""What the Python of the README takes for granted; see ``tests.readmes``."""

from tests.readmes import Snippet

#: Its one block is that of ``papers/augreg/README.md``, which is run with a network that is small.
SNIPPETS: dict[int, Snippet] = {}
