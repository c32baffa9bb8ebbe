"""GETAM: segmentation from image-level labels, by gradient-weighted attention maps of a vision transformer."""

from common.declaration import Model, Paper

PAPER = Paper(slug="getam", title="x", authors=("a",), venue="v", year=2021, kind="k", summary="s", bibtex="{2021}",
    models=(
        Model(name="getam_vit_hybrid", released="vitb_hybrid"),
        Model(name="getam_vit", released="vitb"),
        Model(name="getam_deit", released="deit"),
        Model(name="getam_deit_distilled", released="deit_distilled"),
    ),
)
