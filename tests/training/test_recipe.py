from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import papers
from common.errors import UserError
from common.training.recipe import KEYS, load_as, load_recipe, origins, settings
from common.training.recipe_file import BENCH
from papers.__main__ import main

RECIPES = Path(__file__).with_name("recipe.toml")
PAPERS = Path(__file__).parents[2] / "papers"
SHIPPED = [
    (paper.recipe, setting)
    for paper in papers.all_papers().values()
    if not paper.recipe_type
    for setting in settings(paper.recipe)
]


def write(tmp_path: Path, old: str, new: str) -> Path:
    text = RECIPES.read_text()
    assert old in text
    path = tmp_path / "recipe.toml"
    path.write_text(text.replace(old, new, 1))
    return path


def test_values_have_the_types_of_the_fields() -> None:
    recipe = load_recipe(RECIPES, "plain")
    assert recipe.warmup_epochs == 0.0
    assert isinstance(recipe.warmup_epochs, float)
    assert recipe.crop_scale == (1.0, 1.0)
    assert recipe.method == {"strength": 1.0, "form": "kept"}
    assert recipe.changes == ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.epochs = 2  # type: ignore[misc]


def test_overlays_apply_in_order() -> None:
    assert load_recipe(RECIPES, "plain", model="small").total_batch == 8
    big = load_recipe(RECIPES, "plain", model="big_star", quick=True)
    assert (big.total_batch, big.epochs, big.method["strength"], big.written_batch) == (16, 1, 0.5, 16)
    assert load_recipe(RECIPES, "plain", model="big_bar").method["strength"] == 1.0


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("momentum = 0.9\n", "momentun = 0.9\n", (":35: momentun is not a setting", "Did you mean momentum?")),
        ("epochs = 3\n", 'epochs = "3"\n', (":8: epochs must be an integer, not '3'",)),
        ("epochs = 3\n", "epochs = true\n", ("epochs must be an integer",)),
        ("epochs = 3\n", "", ("[tiny] does not say epochs",)),
        ("epochs = 3\n", "epochs = 0\n", ("epochs must be at least 1",)),
        ("mixup = 0.8\n", "mixup = -1\n", ("mixup must be at least 0",)),
        ("label_smoothing = 0.1\n", "label_smoothing = 1.5\n", ("must lie between 0 and 1",)),
        ('mix_mode = "batch"', 'mix_mode = "pairs"', ("must be one of batch, pair, elem", "Did you mean pair?")),
        ("std = [0.25]", "std = [0.25, 0.25]", ("mean and std need one positive value a channel",)),
        ("std = [0.25]", "std = 0.25", ("std must be a list",)),
        ("momentum = 0.9\n", "momentum = nan\n", (":35: momentum must be a finite number, not nan",)),
        ("std = [0.25]", "std = [inf]", ("std must be a finite number",)),
        ("crop_scale = [0.5, 1.0]", "crop_scale = [1.0, 0.5]", ("crop_scale must be two positive values",)),
        ("optimizer_betas = [0.9, ", "optimizer_betas = [1.0, ", ("optimizer_betas must be at least 0 and below 1",)),
        ('schedule = "cosine"', 'schedule = "cosin"', ("schedule must be one of", "Did you mean cosine?")),
        ('"bilinear"', '"bilinaer"', ("interpolation must be one of", "Did you mean bilinear?")),
        ('["learning_rate"]', '["learning_rat"]', ("scaled_rates", "Did you mean learning_rate?")),
        ("warmup_epochs = 0.5", "warmup_epochs = 9", ("warmup_epochs (9) exceeds epochs (3)",)),
        ("total_batch = 8", "total_batch = 9", ("total_batch must be even",)),
        ("[tiny]", "[tiny", ("not valid TOML", "line 2")),
        ("[tiny]", "loose = 1\n[tiny]", ("loose stands outside a table",)),
        ('distillation = "none"', 'distillation = "hard"', ("needs a distillation_teacher",)),
    ],
)
def test_a_bad_recipe_is_one_sentence(tmp_path: Path, old: str, new: str, words: tuple[str, ...]) -> None:
    path = write(tmp_path, old, new)
    with pytest.raises(UserError) as error:
        load_recipe(path, "tiny")
    for word in (str(path), *words):
        assert word in str(error.value)


def test_a_recipe_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"# fine\n# na\xefve\n" + RECIPES.read_bytes())
    with pytest.raises(UserError, match=r"recipe\.toml:2: it is not UTF-8 text"):
        load_recipe(path, "tiny")


def test_an_unknown_setting_or_method_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no setting tyni; it has tiny, plain\. Did you mean tiny\?"):
        load_recipe(RECIPES, "tyni")
    with pytest.raises(UserError, match="cannot be read"):
        load_recipe(tmp_path / "absent.toml", "tiny")
    path = write(tmp_path, "method.strength = 0.5", "method.strenght = 0.5")
    with pytest.raises(UserError, match=r"strenght is not in \[plain\.method\]\. Did you mean strength\?"):
        load_recipe(path, "plain", model="big_star")


def test_set_changes_one_value_and_marks_the_recipe() -> None:
    recipe = load_recipe(
        RECIPES, "plain", changes=["epochs=7", "mean=[0.1]", "optimizer=adamw", "method.form=discarded"]
    )
    assert (recipe.epochs, recipe.mean, recipe.optimizer, recipe.method["form"]) == (7, (0.1,), "adamw", "discarded")
    assert recipe.changes[0] == "epochs=7"
    assert "deviating: epochs=7" in recipe.describe()
    assert load_recipe(RECIPES, "plain").method["form"] == "kept"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("epoch=7", "epoch is not a setting of a recipe. Did you mean epochs?"),
        ("epochs", "write it as key=value"),
        ("epochs=x", "epochs must be an integer, not 'x'"),
        ("method.from=kept", "Did you mean form?"),
        ("method.strength=high", "strength must be a number"),
        ("train_crop=central", "must be one of random_resized, padded, simple, none"),
        ("interpolation=cubic", "Did you mean bicubic?"),
        ("learning_rate=nan", "learning_rate must be a finite number, not nan"),
        ("mean=[inf]", "mean must be a finite number"),
        ("method.strength=inf", "strength must be a finite number"),
        ("crop_scale=[0.5, 5]", "crop_scale must be two positive values of at most 1, the smaller one first"),
        ("crop_ratio=[2, 1]", "crop_ratio must be two positive values, the smaller one first"),
        ("crop_ratio=[0, 1]", "crop_ratio must be two positive values"),
        ("evaluation_crop=0", "evaluation_crop must be more than 0"),
    ],
)
def test_a_bad_set_is_one_sentence(change: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        load_recipe(RECIPES, "plain", changes=[change])
    assert words in str(error.value)
    assert f"--set {change}" in str(error.value)


def test_the_learning_rate_follows_the_batch() -> None:
    recipe = load_recipe(PAPERS / "vars" / "recipe.toml", "imagenet")
    assert recipe.rate("learning_rate") == pytest.approx(1e-3)  # 5e-4 x 1024 / 512, as the source computes
    assert "written for" not in recipe.describe_rates()
    smaller = recipe.with_changes("total_batch=256")
    assert smaller.rate("learning_rate") == pytest.approx(2.5e-4)
    assert smaller.rate("min_learning_rate") == pytest.approx(1e-5)
    assert "written for a total batch of 1024; learning_rate scaled linearly" in smaller.describe_rates()
    assert smaller.with_changes("learning_rate_scaling=sqrt").rate("learning_rate") == pytest.approx(5e-4 / 2**0.5)
    assert smaller.with_changes("learning_rate_scaling=none").rate("learning_rate") == pytest.approx(5e-4)


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """The recipe of the paper ``own``, on that of ``first-one`` beside it, whose setting ``plain`` is the root."""
    first, own = (tmp_path / name / "recipe.toml" for name in ("first_one", "own"))
    for path in (first, own):
        path.parent.mkdir()
    first.write_text(RECIPES.read_text() + '[next]\nbase = "plain"\nepochs = 5  # "five" of #3\n')
    own.write_text(
        """
[on_another]
base = "first-one:next"
seed = 7

[on_another.models."big_*"]
learning_rate = 0.5

[on_another.quick]
method.strength = 2.0

[again]
base = "on_another"
total_batch = 32

[small]
base = "bench"
method = { anything = 1 }
"""
    )
    return own


def test_what_a_setting_does_not_state_stands_in_its_base(beside: Path) -> None:
    root, ours = load_recipe(RECIPES, "plain"), load_recipe(beside, "on_another")
    assert ours == dataclasses.replace(root, setting="on_another", epochs=5, seed=7)
    bench = load_recipe(*BENCH)
    assert load_recipe(beside, "small") == dataclasses.replace(bench, setting="small", method={"anything": 1})
    assert load_recipe(beside, "small", quick=True).epoch_images == load_recipe(*BENCH, quick=True).epoch_images


def test_a_base_applies_with_its_models_first_and_the_quick_forms_last(beside: Path) -> None:
    inherited = load_recipe(beside, "on_another", model="big_star", quick=True)
    assert inherited.total_batch == 16, "stated by the base for this model"
    assert inherited.learning_rate == 0.5, "stated here for this model"
    assert inherited.epochs == 1, "quick, though the base in between states 5"
    assert inherited.method == {"strength": 2.0, "form": "kept"}, "the quick form here is after the model there"
    own = load_recipe(beside, "again", model="big_star")
    assert (own.total_batch, own.written_batch) == (32, 32), "what a setting states is after its base's models"
    assert own.method["strength"] == 0.5


def test_a_method_changes_that_of_the_base_key_by_key(beside: Path) -> None:
    text = beside.read_text()
    beside.write_text(text + "[again.method]\nstrength = 3.0\n")
    assert load_recipe(beside, "again").method == {"strength": 3.0, "form": "kept"}
    beside.write_text(text + "[again.method]\nstrenght = 3.0\n")
    with pytest.raises(UserError, match=r":20: strenght is not in \[plain\.method\]\. Did you mean strength\?"):
        load_recipe(beside, "again")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("first-one:next", "first-on:next", (":3: the base first-on:next is of no paper", "Did you mean first-one?")),
        (
            "first-one:next",
            "first-one:nxet",
            (":3: the base first-one:nxet is not a", "has tiny, plain, next. Did you"),
        ),
        ('"on_another"', '"on_anotter"', (":13: the base on_anotter is not a setting", "Did you mean on_another?")),
        ('"bench"', '"bnech"', ("the base bnech is not a setting", "Did you mean bench?")),
        ('"bench"', "1", (":17: base must be a text", "not 1")),
        ('"bench"', '""', (":17: base must be a text",)),
        ('base = "bench"', 'bass = "bench"', ("bass is not a setting of a recipe. Did you mean base?",)),
        ('base = "bench"', "", ("[small] does not say num_classes,", "without a base names every key")),
        ("method.strength = 2.0", 'base = "bench"', (":10: a base stands in the setting itself",)),
        ('"first-one:next"', '"again"', (":3: the bases of [again] go in a circle (own:again, own:on_another",)),
        ('"first-one:next"', '"own:on_another"', (":3: the bases of [again] go in a circle",)),
        ("seed = 7", "sede = 7", (":4: sede is not a setting of a recipe. Did you mean seed?",)),
    ],
)
def test_a_bad_base_is_one_sentence(beside: Path, old: str, new: str, words: tuple[str, ...]) -> None:
    text = beside.read_text()
    assert old in text
    beside.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        load_recipe(beside, "small" if "bench" in old else "again", quick=True)
    for word in (str(beside), *words):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_a_key_that_the_root_lacks_is_missing_wherever_it_is_stated(beside: Path) -> None:
    first = beside.parents[1] / "first_one" / "recipe.toml"
    text = first.read_text()
    first.write_text(text[: text.index("[plain]")] + text[text.index("[plain]") :].replace("seed = 0\n", "", 1))
    with pytest.raises(UserError, match=r"first_one/recipe\.toml:59: \[plain\] does not say seed"):
        load_recipe(beside, "again")


def test_each_value_has_the_line_that_states_it(beside: Path) -> None:
    stated = origins(beside, "on_another", model="big_star", quick=True)
    recipe = load_recipe(beside, "on_another", model="big_star", quick=True)
    assert set(stated) == {*KEYS, *(f"method.{key}" for key in recipe.method)}
    for key, origin in stated.items():
        line = origin.path.read_text().splitlines()[origin.line - 1]
        assert line.startswith((f"{key} = ", f"{key.removeprefix('method.')} = ")), key
    shorts = {key: stated[key].short for key in ("seed", "learning_rate", "method.strength")}
    assert shorts == {
        "seed": "own/recipe.toml:4",
        "learning_rate": "own/recipe.toml:7",
        "method.strength": "own/recipe.toml:10",
    }
    assert origins(beside, "on_another")["epochs"].comment == '"five" of #3'
    assert stated["seed"].comment == ""
    assert origins(beside, "small")["method.anything"].short == "own/recipe.toml:18"


def test_a_whole_setting_is_printed_with_its_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vars", "recipe"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "imagenet  based on rvt:imagenet, then deit:imagenet",
        "embedded  based on rvt:embedded, then bench",
    ]
    model = "vars_d_rvt_tiny_plus"
    assert main(["vars", "recipe", "imagenet", "--model", model, "--quick"]) == 0
    head, *lines, rates = capsys.readouterr().out.splitlines()
    assert head == f"vars imagenet, {model}, quick, based on rvt:imagenet, then deit:imagenet"
    assert "written for a total batch of 1024" in rates
    recipe = load_recipe(PAPERS / "vars" / "recipe.toml", "imagenet", model=model, quick=True)
    stated = origins(PAPERS / "vars" / "recipe.toml", "imagenet", model=model, quick=True)
    assert [line.split(" = ")[0].strip() for line in lines] == [*KEYS, *(f"method.{key}" for key in recipe.method)]
    for line in lines:
        origin = stated[line.split(" = ")[0].strip()]
        assert f"  {origin.short}" in line
        assert line.endswith(origin.comment)
    (augmentation,) = (line for line in lines if "patch_augmentation =" in line)
    assert augmentation.split() == [
        *("method.patch_augmentation", "=", "true", stated["method.patch_augmentation"].short),
        *("--use_patch_aug", "(README.md)"),
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["vars", "recipe", "imagent"], "has no setting imagent; it has imagenet, embedded. Did you mean imagenet?"),
        (["rvt", "recipe", "imagenet", "--model", "rvt_tinny"], "not a model of rvt. Did you mean rvt_tiny?"),
        (["vars", "recipe", "--quick"], "are of a setting; name one of imagenet, embedded"),
    ],
)
def test_what_cannot_be_printed_is_said(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert sentence in capsys.readouterr().err


def test_a_recipe_of_another_type_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unrolling", "recipe", "gaussian"]) == 0
    assert "  density = 0.1" in capsys.readouterr().out


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(("path", "setting"), SHIPPED, ids=[f"{path.parent.name}-{name}" for path, name in SHIPPED])
def test_each_shipped_recipe_loads(path: Path, setting: str, quick: bool) -> None:
    recipe = load_recipe(path, setting, quick=quick)
    text = recipe.describe()
    for key in KEYS:
        assert f"  {key} = " in text


@pytest.mark.parametrize(
    ("paper", "model", "batch", "rate", "augmented"),
    [
        ("vars", "vars_d_rvt_tiny", 1024, 1e-3, False),
        ("vars", "vars_sd_rvt_base_plus", 1024, 1e-3, True),
        ("rvt", "rvt_tiny", 2048, 2e-3, False),
        ("rvt", "rvt_small_plus", 2048, 2e-3, True),
        ("rvt", "rvt_base", 1024, 1e-3, False),
        ("rvt", "rvt_base_plus", 1024, 1e-3, True),
    ],
)
def test_the_printed_batches_and_rates(paper: str, model: str, batch: int, rate: float, augmented: bool) -> None:
    recipe = load_recipe(PAPERS / paper / "recipe.toml", "imagenet", model=model)
    assert recipe.total_batch == recipe.written_batch == batch
    assert recipe.rate("learning_rate") == pytest.approx(rate)
    assert recipe.method["patch_augmentation"] is augmented
    assert recipe.method["patch_augmentation_gradient"] == "kept"


@dataclasses.dataclass(frozen=True)
class Own:
    steps: int
    rate: float
    names: tuple[str, ...]


OWN = '[one]\nsteps = 3\nrate = 1\nnames = ["a", "b"]\n\n[one.quick]\nsteps = 1\n\n[two]\nbase = "one"\nrate = 2\n'


def test_a_recipe_of_another_type_is_read_into_it(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(OWN)
    assert load_as(Own, path, "one") == Own(3, 1.0, ("a", "b"))
    assert load_as(Own, path, "one", quick=True).steps == 1
    assert load_as(Own, path, "two", quick=True) == Own(1, 2.0, ("a", "b"))
    with pytest.raises(UserError, match=r"has no setting on; it has one, two\. Did you mean one"):
        load_as(Own, path, "on")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("rate = 1", "rat = 1", ":3: rat is not a setting of this recipe. Did you mean rate?"),
        ("rate = 1\n", "", "[one] does not say rate"),
        ("steps = 3", "steps = 0.5", ":2: steps must be an integer"),
        ("steps = 1", "stebs = 1", ":7: stebs is not a setting"),
        ('["a", "b"]', '"a"', "names must be a list"),
    ],
)
def test_a_recipe_of_another_type_names_what_is_wrong(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(OWN.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        load_as(Own, path, "one", quick=True)
    assert words in str(caught.value)
