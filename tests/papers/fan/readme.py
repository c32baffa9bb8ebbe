"""What the Python of the README takes for granted; see ``tests.readmes``."""

from tests.readmes import Snippet, images

SNIPPETS = {0: Snippet(images, (("fan_hybrid_tiny.pth.tar", "fan_tiny_8_p4_hybrid"),))}
