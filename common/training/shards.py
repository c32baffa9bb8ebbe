"""WebDataset shards, read by timm, with broken ones named: timm's own reader leaves out what it cannot read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from timm.data.readers.reader_wds import ReaderWds

from common.data.folders import IMAGE_ENDINGS, is_hidden
from common.data.pixels import READ_ERRORS, UnreadableImage, eight_bits
from common.errors import UserError

#: What a tar file ends with: two blocks of zeros.
END = bytes(1024)

_logger = logging.getLogger(__name__)


class Shards(ReaderWds):
    """Yields (image, label), and (`UnreadableImage`, -1) for a sample or the rest of a shard that cannot be read.

    Args:
        root: folder of the shards.
        split: shards as ``"train-{0000..0099}.tar|100000"`` with the number of images, or a name in ``_info.json``.
        skip_unreadable: leave out what cannot be read, with a warning.
        settings: timm's.

    Raises:
        UserError: a shard in a local folder is missing or cut short, which would go unnoticed when it is read.
    """

    def __init__(self, root: str, split: str, *, skip_unreadable: bool, **settings: Any) -> None:
        self.mode = settings.pop("input_img_mode")
        keys = ";".join(ending[1:] for ending in IMAGE_ENDINGS)
        super().__init__(root, "", split=split, input_key=keys, input_img_mode="", **settings)
        self.skip_unreadable = skip_unreadable
        self._broken: list[UnreadableImage] = []
        if Path(root).is_dir():
            for name in map(str, self.split_info.filenames):
                self._check_end(Path(root) / name)

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        """Yield the samples of this loader process: in evaluation each once, in training as many for each process."""
        for image, label in super().__iter__() if self.is_training else self._once():
            while self._broken:
                yield self._broken.pop(), -1
            yield image, label
        while self._broken:
            yield self._broken.pop(), -1

    def _once(self) -> Iterator[tuple[Any, Any]]:
        """Timm repeats images where processes have unequal shares, which would count them twice."""
        if self.ds is None:
            self._lazy_init()
        samples: Any = self.ds
        return ((sample["image"], sample["target"]) for sample in samples)

    def _lazy_init(self) -> None:
        super()._lazy_init()
        pipeline: Any = self.ds
        for stage in pipeline.pipeline:
            settings = getattr(stage, "kw", {})
            if "handler" in settings:
                settings["handler"] = self._note_shard
            decode = next(iter(getattr(stage, "args", ())), None)
            if isinstance(decode, partial):
                stage.args = (partial(self._decoded, decode), *stage.args[1:])

    def _decoded(self, decode: Callable[[Mapping[str, Any]], Any], sample: Mapping[str, Any]) -> Any:
        """What timm makes of a sample, in its names: an image and a label."""
        if is_hidden(sample["__key__"].rpartition("/")[2] or "."):
            return None
        try:
            decoded = decode(sample)
            return decoded and {**decoded, "jpg": eight_bits(decoded["jpg"], self.mode)}
        except KeyError as error:
            reason = f"it has no {error}"
        except READ_ERRORS as error:
            reason = str(error) or type(error).__name__
        broken = UnreadableImage(f"{sample['__key__']} in {sample['__url__']}", reason)
        if self._skipped(broken):
            return None
        return {"jpg": broken, "target": -1}

    def _check_end(self, shard: Path) -> None:
        try:
            with shard.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - len(END)))
                whole = shard.suffix != ".tar" or file.read() == END
        except OSError as error:
            raise UserError(f"The shard {shard} cannot be read ({error.strerror or error}).") from None
        if not whole and not self._skipped(UnreadableImage(f"The end of {shard}", "it is cut short")):
            raise UserError(
                f"The shard {shard} is cut short: get it again, or train on what is left with --skip-unreadable."
            )

    def _note_shard(self, error: Exception) -> bool:
        """Go on with the next shard where one cannot be read."""
        names = tuple(map(str, self.split_info.filenames))
        shards = {part for part in error.args if isinstance(part, str) and part.endswith(names)}
        if not shards:
            raise error  # within a shard: webdataset then comes back with its name
        broken = UnreadableImage(f"in {shards.pop()}", str(error.args[0]).partition(" @ ")[0])
        if not self._skipped(broken):
            self._broken.append(broken)
        return True

    def _skipped(self, broken: UnreadableImage) -> bool:
        if self.skip_unreadable:
            _logger.warning("%s cannot be read (%s); it is left out", broken.name, broken.reason)
        return self.skip_unreadable
