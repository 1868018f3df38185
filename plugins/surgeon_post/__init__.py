"""The 27 experiments of the post as studies, four packaged clothes, and three small probes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from surgeon.hookspecs import hookimpl

if TYPE_CHECKING:
    from surgeon.registry import Registrar

_HERE = Path(__file__).parent
#: What each experiment is about; its studies are `post/N` (small packaged models, all of it runs
#: offline) and `post/N-named` (the models of the post).
SUMMARIES = {
    1: "the encoder, drawn from the model's own anatomy",
    2: "animals: what a class wants to see",
    3: "landscapes and objects",
    4: "depth: a ViT against a ResNet",
    5: "one encoder alone, untrained",
    6: "one encoder alone, trained",
    7: "the entry: stem, and stem with block 0",
    8: "the stem's filters",
    9: "a stem that passes on more than it is given",
    10: "a trained stem under untrained blocks, by depth and by steps",
    11: "the position embedding",
    12: "which part of block 0 helps",
    13: "layer normalisation is not invertible",
    14: "the first norm",
    15: "dissection, untrained: without norms, without mlp",
    16: "dissection without residuals: attention against mlp",
    17: "attention alone, growing steps",
    18: "twin distances",
    19: "dissection, trained: without attention, without mlp",
    20: "the same on a second photo",
    21: "deep dream",
    22: "the Mixer, drawn from its own anatomy",
    23: "a Mixer by depth, with two sizes of patches",
    24: "the yardstick a'",
    25: "counting elements in and out",
    26: "normalised pixels and raw ones",
    27: "where a patch was, without position embedding",
}
_CLOTHES = {"boot": "an ankle boot", "coat": "a coat", "dress": "a dress", "bag": "a bag"}


@hookimpl
def register_studies(register: Registrar) -> None:
    for number, summary in SUMMARIES.items():
        for tier in ("", "-named"):
            path = _HERE / "studies" / f"{number:02}{tier}.toml"
            register(f"post/{number}{tier}", str(path), summary=summary)


@hookimpl
def register_images(register: Registrar) -> None:
    for name, what in _CLOTHES.items():
        register(
            name, str(_HERE / "images" / f"{name}.png"),
            summary=f"{what}, 28 x 28; Zalando SE, MIT licence",
        )  # fmt: skip


@hookimpl
def register_probes(register: Registrar) -> None:
    register(
        "anatomy", "surgeon_post.anatomy:AnatomyProbe", summary="what is the model made of?",
        settings="surgeon_post.settings:AnatomySettings",
    )  # fmt: skip
    register(
        "permutation", "surgeon_post.permutation:Permutation",
        summary="does the output know where a patch was?",
        settings="surgeon_post.settings:PermutationSettings",
    )  # fmt: skip
    register(
        "layernorm", "surgeon_post.layernorm:LayerNormProbe",
        summary="which vectors does layer normalisation map to one?",
        settings="surgeon_post.settings:LayerNormSettings",
    )  # fmt: skip
