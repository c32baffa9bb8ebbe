"""What the Python of the README takes for granted; see ``tests.readmes``."""

from tests.readmes import Snippet

SNIPPETS = {0: Snippet(files=(("swin_tiny_patch4_window7_224.pth", "swin_tiny_patch4_window7_224"),))}
