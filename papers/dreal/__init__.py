"""DREAL: attention modules of a CNN learn from a recurrent critic what they are worth."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CLAIMS as FULL_SCALE

PAPER = Paper(
    slug="dreal",
    title="Deep Reinforced Attention Learning for Quality-Aware Visual Recognition",
    authors=("Duo Li", "Qifeng Chen"),
    venue="ECCV 2020",
    year=2020,
    kind="attention",
    arxiv="2007.06156",
    summary=(
        "Attention modules of a CNN are actors whose reward is the gain in recognition that each brings; a recurrent "
        "critic judges their maps in training, and is gone at inference."
    ),
    bibtex="""@inproceedings{li2020deep,
  title     = {Deep Reinforced Attention Learning for Quality-Aware Visual Recognition},
  author    = {Li, Duo and Chen, Qifeng},
  booktitle = {European Conference on Computer Vision},
  year      = {2020}
}""",
    reused_models=(
        *(Model(name=name) for name in ("seresnet18", "seresnet50", "seresnet101")),
        *(Model(name=name) for name in ("ecaresnet50d", "ecaresnet101d", "resnet50")),
    ),
    claims=(
        Claim(
            name="reinforced",
            statement="A network with squeeze-and-excitation is more accurate when its modules learn from a critic.",
            needs=("embedded",),
            primary="resnet_mini+se.dreal > resnet_mini+se: top1",
        ),
        Claim(
            name="any_module",
            statement="So is one with CBAM: the method takes any attention module.",
            needs=("embedded",),
            primary="resnet_mini+cbam.dreal > resnet_mini+cbam: top1",
        ),
        Claim(
            name="gain",
            statement="Modules that learn from a critic bring more to recognition.",
            needs=("embedded",),
            primary="resnet_mini+se.dreal > resnet_mini+se: attention_gain",
        ),
        Claim(
            name="inference",
            statement="A network trained so is the same at inference: no parameter and no operation is added.",
            primary="same_network",
        ),
        Claim(
            name="roles",
            statement="The critic's value moves attention modules alone, and its reward is what a module brings.",
            primary="actors_alone",
        ),
        Claim(
            name="cost",
            statement="A step of training costs at most twice as much.",
            primary="at_most_twice",
        ),
        *FULL_SCALE,
    ),
    deviations=(
        Deviation(
            name="reward",
            publication='"the discreteness of our designed reward", of "the relative gain of the final recognition"',
            released="nothing",
            ours="the sign of the gain of the true class's probability",
            switch="recipe key method.reward",
            effect="Another one, of being right, can be trained with; no source says which is the publication's.",
        ),
        Deviation(
            name="aside",
            publication='the gain "arising from each individual attention module"',
            released="nothing",
            ours="against the module's mean map over the batch, which the layers behind it are made for",
            switch="recipe key method.aside",
            effect="Both can be trained with; no source says which is the publication's.",
        ),
        Deviation(
            name="one_module_a_step",
            publication="does not say how often modules are judged",
            released="nothing",
            ours="one module a step, drawn at random; all of them learn from the critic",
            switch="none",
            effect="A pass for every module would cost as many more.",
        ),
        Deviation(
            name="critic",
            publication='"recurrent critics", "alternately optimized" with the actors',
            released="nothing",
            ours="one LSTM over modules, a step of Adam before each step of the network",
            switch="recipe keys method.critic_hidden, method.critic_rate and method.strength",
            effect="Shows in training alone.",
        ),
    ),
)
