"""What the Python of the README takes for granted; see ``tests.readmes``."""

from tests.readmes import Snippet, images

SNIPPETS = {0: Snippet(images)}
