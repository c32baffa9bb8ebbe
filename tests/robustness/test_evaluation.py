"""The evaluation loop: resumes, divides exactly, names what is wrong, loses nothing."""

from __future__ import annotations

import gc
import itertools
import json
import os
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common import progress
from common.errors import UserError
from common.measurement import Measurement, from_json, to_json
from common.robustness import evaluation
from common.robustness.benchmarks import Cell, benchmark
from common.robustness.benchmarks.changes import as_read
from common.robustness.benchmarks.classes import imagenet_wnids, sixteen_classes, subset
from common.robustness.evaluation import Evaluation, Execution, Processes, evaluate, fingerprint
from common.robustness.normalisation import Normalized
from common.robustness.records import CellRecord
from tests.robustness.stand_ins import PLAIN, ColourModel, class_folders, imagenet_family, write_picture


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """ImageNet-R with one picture a class, some of another class."""
    wnids = list(subset("imagenet-r"))
    return class_folders(tmp_path / "r", wnids, dict.fromkeys(wnids[:30], 400))


def run(root: Path, **settings) -> list[Measurement]:
    settings = {"preprocessing": PLAIN, "workers": 0, "batch_size": 32, "model_name": "colour", **settings}
    model = settings.pop("model", None) or ColourModel()
    names = {field.name for field in fields(Execution)} & set(settings)
    execution = Execution(**{name: settings.pop(name) for name in names})
    return evaluate(model, settings.pop("name", "imagenet-r"), root, execution=execution, **settings)


def values(found: list[Measurement]) -> list[tuple]:
    return [(m.dataset, m.metric, m.value, m.interval, m.n) for m in found]


def test_batching_workers_and_limit_do_not_change_results(root: Path) -> None:
    expected = values(run(root))
    assert expected[0][2] < 100
    assert values(run(root, batch_size=7)) == expected
    assert values(run(root, workers=2)) == expected
    few = run(root, limit=20)
    assert few[0].n == 20
    assert values(few) == values(run(root, limit=20))
    assert "20 images of a fixed random order, names " in few[0].protocol


class Failing(ColourModel):
    """Fails after some batches, as a machine may."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def forward(self, images):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().forward(images)


def test_interrupted_evaluation_goes_on(root: Path, tmp_path: Path) -> None:
    expected = values(run(root))
    with pytest.raises(KeyboardInterrupt):
        run(root, model=Failing(3), output=tmp_path)
    counting = Failing(1000)
    assert values(run(root, model=counting, output=tmp_path, batch_size=8)) == expected
    # 200 images, of which 3 batches of 32 were there already.
    assert 1000 - counting.left == (200 - 96) // 8
    # A third call computes nothing.
    assert values(run(root, model=Failing(0), output=tmp_path)) == expected


def test_folder_of_another_evaluation_is_refused(root: Path, tmp_path: Path) -> None:
    run(root, output=tmp_path)
    with pytest.raises(UserError, match="limit None where 10 is asked for"):
        run(root, output=tmp_path, limit=10)
    other = ColourModel()
    with torch.no_grad():
        other.palette[0, 0] += 0.1
    assert fingerprint(other) != fingerprint(ColourModel())
    with pytest.raises(UserError, match="with state"):
        run(root, output=tmp_path, model=other)
    assert len(run(root, output=tmp_path)) == 5


def test_partly_written_row_is_evaluated_again(tmp_path: Path) -> None:
    record = CellRecord(tmp_path / "cell.npy", ("top1", "confidence"))
    record.create(2)
    record.open(2)
    record.rows[0, 0] = 1.0
    assert record.pending().tolist() == [True, True]


def test_processes_share_the_images_exactly(root: Path, tmp_path: Path) -> None:
    """Three processes one after the other, in one folder: each image is evaluated once."""
    expected = values(run(root))
    seen: list[int] = []

    class Counting(ColourModel):
        def forward(self, images):
            seen.append(len(images))
            return super().forward(images)

    found: list[Measurement] = []
    # What is left is decided before anybody writes: make the record first, as the barrier makes sure.
    record = CellRecord(tmp_path / "clean.npy", ("top1", "top5", "confidence"))
    record.create(200)
    for index in range(3):
        model = Counting()
        job = Evaluation(
            model,
            benchmark("imagenet-r", root, PLAIN),
            tmp_path,
            identity={"preprocessing": str(PLAIN), "precision": "float32"},
            normalized=Normalized(model, PLAIN.mean, PLAIN.std),
            # The others' shares are still to come while this process takes its own.
            execution=Execution(batch_size=16, workers=0, processes=Processes(index=0, count=3 - index)),
        )
        if index < 2:
            with pytest.raises(UserError, match="images are not evaluated"):
                job.measure("colour", "none")
        else:
            found = job.measure("colour", "none")
    assert values(found) == expected
    assert sum(seen) == 200


def test_two_processes_give_the_table_of_one(
    root: Path, tmp_path: Path, processes: Callable[..., list[int]], process_group: Callable[[int], dict[str, str]]
) -> None:
    """Over gloo, with random draws: an image's depend on its place in the data set, not on who evaluates it."""
    few = {"name": "imagenet-occlusion", "limit": 30, "preprocessing": replace(PLAIN, size=28)}
    wnids = imagenet_wnids()
    imagenet = class_folders(tmp_path / "val", wnids)

    def child(rank: int) -> None:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        found = run(imagenet, output=tmp_path / "two", batch_size=4, **few)
        (tmp_path / f"{rank}.json").write_text(json.dumps([to_json(m) | {"seconds": 0} for m in found]))

    assert processes(child, 2, **process_group(2)) == [0, 0]
    expected = run(imagenet, **few)
    assert len({m.value for m in expected}) >= 3
    for rank in range(2):
        ours = [from_json(record) for record in json.loads((tmp_path / f"{rank}.json").read_text())]
        assert values(ours) == values(expected)


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """Tensors alive while the model runs are those of a batch; Python's own memory grows by the file names alone."""
    wnids = list(subset("imagenet-r"))
    class_folders(tmp_path, wnids)
    for wnid in wnids:
        for number in range(2):
            (tmp_path / wnid / f"{number}.png").symlink_to(tmp_path / wnid / "picture.png")

    class Weighing(ColourModel):
        def __init__(self) -> None:
            super().__init__()
            self.bytes: list[int] = []

        def forward(self, images):
            storages = {
                thing.untyped_storage().data_ptr(): thing.untyped_storage().nbytes()
                for thing in gc.get_objects()
                if type(thing) is torch.Tensor
            }
            self.bytes.append(sum(storages.values()))
            return super().forward(images)

    peaks = {}
    for limit in (200, 600):
        model = Weighing()
        tracemalloc.start()
        run(tmp_path, model=model, limit=limit, batch_size=40)
        peaks[limit] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(model.bytes) == limit // 40
        assert max(model.bytes[1:]) == min(model.bytes[1:])
    # 40 images of 16 x 16 in float are 120 kB; a recorded image is 12 bytes, and its row in the permutation 8.
    assert peaks[600] - peaks[200] < 200 * 400


def test_remaining_time_is_told(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within a part by images, over the parts of a stored benchmark in minutes."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    run(root, batch_size=50)
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"imagenet-r: 1/4, \d+ s, about \d+ s left", lines[0])
    clock = itertools.count(step=30)
    monkeypatch.setattr(evaluation.time, "monotonic", lambda: float(next(clock)))
    folder = imagenet_family(tmp_path / "family")["imagenet-c"]
    run(folder, name="imagenet-c", preprocessing=PLAIN)
    told = re.findall(r"imagenet-c: (\d+) of 75 parts, about (\d+) min left", capsys.readouterr().err)
    assert [int(done) for done, _ in told] == list(range(1, 76))
    left = [int(minutes) for _, minutes in told]
    assert left[0] > left[37] > left[-1] == 0


def test_remaining_time_counts_only_what_this_call_evaluates(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of four parts two are there already: the third takes minutes, and so will the fourth."""
    plain = benchmark("imagenet-r", root, PLAIN)
    parts = tuple(replace(plain.stages[0], name=name, cells=(Cell(name, as_read),)) for name in "abcd")
    monkeypatch.setattr(evaluation, "benchmark", lambda *_: replace(plain, stages=parts, summarise=lambda records: []))
    run(root, output=tmp_path)
    for name in "cd":
        (tmp_path / f"imagenet-r/{name}.npy").unlink()
    capsys.readouterr()
    clock = itertools.count(step=60)
    monkeypatch.setattr(evaluation.time, "monotonic", lambda: float(next(clock)))
    run(root, output=tmp_path, batch_size=200)
    told = re.findall(r"(\d) of 4 parts, about (\d+) min left", capsys.readouterr().err)
    assert [done for done, _ in told] == ["3", "4"]
    # The clock is read five times or more till then; a third of it would be left if the first two parts counted.
    assert [int(minutes) >= 5 for _, minutes in told] == [True, False]


def test_unreadable_image_is_named_and_nothing_is_lost(root: Path, tmp_path: Path) -> None:
    wnid = list(subset("imagenet-r"))[150]
    good = (root / wnid / "picture.png").read_bytes()
    (root / wnid / "picture.png").write_bytes(good[: len(good) // 2])
    for workers in (0, 1):
        with pytest.raises(UserError, match=rf"{wnid}/picture\.png cannot be read") as caught:
            run(root, output=tmp_path, workers=workers)
        assert "Traceback" not in str(caught.value)
    done = ~np.isnan(np.load(tmp_path / "imagenet-r" / "clean.npy")[:, 0])
    assert 100 < done.sum() < 150
    (root / wnid / "picture.png").write_bytes(good)
    assert run(root, output=tmp_path)[0].n == 200


def test_model_that_does_not_fit(root: Path) -> None:
    with pytest.raises(UserError, match=r"\(32, 10\) where this benchmark needs 1000 classes"):
        run(root, model=ColourModel(10))
    broken = ColourModel()
    with torch.no_grad():
        broken.palette.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        run(root, model=broken)
    # A decision among 16 categories is a number also where all probabilities are NaN.
    cues = {name: f"{name}1-{name}2" for name in sixteen_classes()}
    for name, file in cues.items():
        write_picture(root / "cues" / name / f"{file}.png", 0)
    with pytest.raises(UserError, match="not finite"):
        run(root / "cues", name="cue-conflict", model=broken)


def test_model_is_evaluated_in_eval_mode_and_left_as_it_was(root: Path) -> None:
    modes = []

    class Watching(ColourModel):
        def forward(self, images):
            modes.append((self.training, torch.is_grad_enabled()))
            return super().forward(images)

    model = Watching().train()
    model.frozen = torch.nn.BatchNorm2d(3).eval()
    run(root, model=model)
    assert set(modes) == {(False, False)}
    assert model.training
    assert not model.frozen.training


def test_changed_data_set_and_damaged_record_are_named(root: Path, tmp_path: Path) -> None:
    run(root, output=tmp_path)
    extra = root / next(iter(subset("imagenet-r"))) / "second.png"
    extra.write_bytes((extra.parent / "picture.png").read_bytes())
    with pytest.raises(UserError, match="is of 200 images where the data set has 201"):
        run(root, output=tmp_path)
    extra.unlink()
    for content in (
        "{",
        (tmp_path / "imagenet-r" / "evaluation.json").read_text().replace('"seconds": ', '"seconds": 9'),
    ):
        (tmp_path / "imagenet-r" / "evaluation.json").write_text(content)
        with pytest.raises(UserError, match=r"evaluation\.json is damaged"):
            run(root, output=tmp_path)


def test_a_damaged_record_is_evaluated_anew(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = values(run(root, output=tmp_path))
    path = tmp_path / "imagenet-r" / "clean.npy"
    whole = path.read_bytes()
    for change, said in (
        (bytearray(), "is damaged; this cell is evaluated anew."),
        (bytearray(whole[:-7]), "1 images are evaluated anew."),
        (bytearray(whole), "2 images are evaluated anew."),
    ):
        if len(change) == len(whole):
            for place in (130, 131, 1500):  # of two rows
                change[place] ^= 0x81
        path.write_bytes(change)
        assert values(run(root, output=tmp_path)) == expected
        assert said in " ".join(capsys.readouterr().err.split())
        assert path.read_bytes() == whole


def test_every_changed_byte_of_a_row_is_seen(tmp_path: Path) -> None:
    record = CellRecord(tmp_path / "cell.npy", ("top1", "confidence"))
    record.create(3)
    record.open(3)
    record.write(np.arange(3), np.array([[1, 0.5], [0, 0.25], [1, 1]], np.float32))
    record.flush()
    whole = (tmp_path / "cell.npy").read_bytes()
    assert not record.pending().any()
    for place in range(3 * 3 * 4):
        changed = bytearray(whole)
        changed[len(whole) - 36 + place] ^= 0x80
        (tmp_path / "cell.npy").write_bytes(changed)
        again = CellRecord(tmp_path / "cell.npy", ("top1", "confidence"))
        again.open(3)
        assert again.pending().tolist() == [row == place // 12 for row in range(3)]


def test_several_processes_need_a_folder(root: Path) -> None:
    with pytest.raises(UserError, match="--output"):
        run(root, processes=Processes(0, 2))
    with pytest.raises(UserError, match="at least 1"):
        run(root, batch_size=0)


def test_a_careless_folder_is_scored_as_the_clean_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Deeper folders, other endings, hidden files, a class without images."""
    for label, names in enumerate((("a.png", "b.WEBP", "deep/er/c.bmp", "d.tif"), ("e.JPG", "f.gif"), ())):
        (tmp_path / f"class{label}").mkdir()
        for name in names:
            write_picture(tmp_path / f"class{label}" / Path(name).with_suffix(".png"), label)
            place = tmp_path / f"class{label}" / name
            place.with_suffix(".png").rename(place)
    for name in ("class0/._a.png", ".ipynb_checkpoints/a.png", "class1/.hidden/a.png", "class1/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    top1 = run(tmp_path, name="images", model=ColourModel(3))[0]
    assert (top1.value, top1.n) == (100, 6)
    said = " ".join(capsys.readouterr().err.split())
    assert "1 file is no image by the ending (.txt) and is left out; no image is in the class folder class2" in said


def test_a_model_without_bare_logits_is_one_sentence(root: Path) -> None:
    class Wrapped(ColourModel):
        def forward(self, images):
            return {"logits": super().forward(images)}

    with pytest.raises(UserError, match=r"the model returns a dict .* wrap it in a module that returns its logits"):
        run(root, model=Wrapped())
