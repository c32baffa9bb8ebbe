"""What the Python of the README takes for granted; see ``tests.readmes``."""

from tests.readmes import Snippet

SNIPPETS = {0: Snippet(files=(("tnt_s_81.5.pth.tar", "tnt_s_patch16_224"),))}
