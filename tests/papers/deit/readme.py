"""What the Python of the README takes for granted; see ``tests.readmes``."""

from tests.readmes import Snippet

SNIPPETS = {0: Snippet(files=(("deit_3_small_224_1k.pth", "deit3_small_patch16_224"),))}
