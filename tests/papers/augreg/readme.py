"""What the Python of the README takes for granted; see ``tests.readmes``."""

from tests.readmes import Snippet

SNIPPETS = {0: Snippet(files=(("Ti_16.npz", "vit_tiny_patch16_224"),))}
