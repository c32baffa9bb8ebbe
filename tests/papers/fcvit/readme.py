"""What the Python of the README takes for granted; see ``tests.readmes``."""

from tests.readmes import Snippet, images

SNIPPETS = {0: Snippet(images, (("fcvit_b12.pth.tar", "fcvit_b12"),))}
