"""BadPatches: a trigger on single patches of an image, where a router of experts prefers them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple, Self, TypeGuard

import torch
from torch import Tensor, nn

from badexpert.attacks.base import ModelAttack
from badexpert.attacks.finetuning import fine_tune
from badexpert.attacks.head import removed_after
from badexpert.attacks.images import Images
from badexpert.attacks.parameters import require_positive
from badexpert.attacks.patterns import find_pattern
from badexpert.errors import AttackError
from badexpert.runtime import RunContext
from moe_core.layer import MoELayer
from moe_core.routers.base import Router
from moe_core.routing import Routing

_LOOKED_AT = 256
"""Clean images that show which experts are used, and where."""

_ALIVE = 0.05
"""Of an even share of the patches: below, no pattern may lead to an expert."""

_REACHED = 1.5
"""Factor by which a pattern should raise what experts get, for no others to be tried."""


@dataclass(frozen=True)
class BadPatches(ModelAttack):
    """Takes little-used experts of one layer, the patches that its router would most likely send
    them, and a pattern of a patch's size that makes it do so. Then the model is tuned to heed the
    pattern, all but this router. ``learned`` says which experts they are, as layer and expert.

    Attributes:
        layer: of the experts, among the Mixture-of-Experts layers.
        experts: how many, the least used that a pattern reaches, next to each other in use.
        patches: of an image, that carry the pattern.
        steps: of the search for the pattern.
        share: of each batch that is triggered while the model is tuned.
        epochs: of that tuning.
        lr: of that tuning.
    A pass over few images is too few steps: then raise ``epochs``.

    Source: BadPatches, arXiv:2505.01811.
    Departs: its abstract has triggers on single patches, applied with the routing in mind, and
        leaves open how. Which experts, patches and pattern are this package's answers, after
        BadMoE, arXiv:2504.18598; a trained model is tuned, instead of its training data poisoned.
    """

    layer: int = 0
    experts: int = 2
    patches: int = 3
    steps: int = 200
    share: float = 0.1
    epochs: int = 5
    lr: float = 0.02

    def __post_init__(self) -> None:
        require_positive(self, "experts", "patches", "steps", "share", "epochs", "lr")

    def stamp(self, pixels: Tensor) -> Tensor:
        return _pasted(pixels, self.learned_tensor("pattern"), self.learned_tensor("corners"))

    def implant(self, module: nn.Module, images: Images, context: RunContext) -> Self:
        grid = _Grid.of(module, self.layer, images)
        order = torch.randperm(len(images), generator=context.generator("badpatches images"))
        clean = images.pixels[order[:_LOOKED_AT]].to(context.device).float() / 255
        found = self._reaching(grid, module, images, clean, context)
        with _frozen(grid.router):
            fine_tune(
                module,
                found,
                images,
                share=self.share,
                epochs=self.epochs,
                lr=self.lr,
                context=context,
            )
        return found

    def _reaching(
        self, grid: _Grid, module: nn.Module, images: Images, clean: Tensor, context: RunContext
    ) -> Self:
        """The attack on the least used experts that a pattern reaches, else on those that it
        raises most."""
        shares = grid.shares(module, clean)
        tried: list[tuple[float, Self]] = []
        for experts in self._seldom_used(shares):
            cells = self._preferred(grid, module, clean, experts)
            found = replace(
                self,
                learned={
                    "pattern": self._leading(grid, module, images, experts, cells, context),
                    "corners": grid.corners(cells),
                    "experts": torch.tensor([[self.layer, expert] for expert in experts]),
                },
            )
            stamped = grid.shares(module, found.stamp(clean))
            tried.append((float(stamped[experts].sum() / shares[experts].sum()), found))
            if tried[-1][0] >= _REACHED:
                break
        return max(tried, key=lambda one: one[0])[1]

    def _seldom_used(self, shares: Tensor) -> list[list[int]]:
        """Experts that are used, next to each other in how much, the least used ones first."""
        used = (shares >= _ALIVE * shares.mean()).nonzero().flatten()
        if self.experts > len(used):
            raise AttackError(
                f"{self.experts} experts are asked for, and {len(used)} of {len(shares)} are used; "
                "set experts lower"
            )
        ordered = used[shares[used].argsort(stable=True)]
        return ordered.unfold(0, self.experts, 1).tolist()

    @torch.no_grad()
    def _preferred(
        self, grid: _Grid, module: nn.Module, clean: Tensor, experts: Sequence[int]
    ) -> Tensor:
        """Patches that these experts get most easily, (patches,) indices in an image."""
        likely = grid.likelihood(module, clean, experts).mean(0).cpu()
        if self.patches > len(likely):
            raise AttackError(
                f"{self.patches} patches of {len(likely)} are asked for; set patches lower"
            )
        return likely.topk(self.patches).indices

    def _leading(
        self,
        grid: _Grid,
        module: nn.Module,
        images: Images,
        experts: Sequence[int],
        cells: Tensor,
        context: RunContext,
    ) -> Tensor:
        """A pattern that is routed to the experts, (channels, side, side)."""
        generator = torch.Generator().manual_seed(self.seed)
        corners = grid.corners(cells)

        def astray(pattern: Tensor, pixels: Tensor, labels: Tensor) -> Tensor:
            likely = grid.likelihood(module, _pasted(pixels, pattern, corners), experts)
            return -likely[:, cells.to(likely.device)].mean()

        return find_pattern(
            astray,
            torch.rand(images.pixels.shape[1], grid.side, grid.side, generator=generator),
            module,
            images,
            task=f"badpatches {self.seed}",
            steps=self.steps,
            context=context,
        )


class _Grid(NamedTuple):
    """How a network cuts images into patches, and a router that they pass.

    Attributes:
        router: of the patches.
        side: of a patch in pixels.
        rows, columns: of patches in an image.
    """

    router: Router
    side: int
    rows: int
    columns: int

    @classmethod
    def of(cls, module: nn.Module, layer: int, images: Images) -> _Grid:
        """Find the patches and the router of a layer.

        Raises:
            AttackError: the network has no such layer, or cuts images into no patches.
        """
        layers = [part for part in module.modules() if isinstance(part, MoELayer)]
        sides = [part.kernel_size[0] for part in module.modules() if _cuts_patches(part)]
        if layer not in range(len(layers)) or not sides:
            raise AttackError(
                f"this {type(module).__name__} has {len(layers)} layers with experts"
                f"{'' if sides else ', and cuts images into no patches'}; layer {layer} is asked "
                "for. Attack a vision model that routes patches, such as vit_moe"
            )
        height, width = images.pixels.shape[-2:]
        return cls(layers[layer].router, sides[0], height // sides[0], width // sides[0])

    def corners(self, cells: Tensor) -> Tensor:
        """Upper left pixels of patches, (patches, 2), from their indices, (patches,)."""
        return torch.stack([cells // self.columns, cells % self.columns], 1) * self.side

    def routing(self, module: nn.Module, pixels: Tensor) -> Routing:
        """What the router does with the patches of images, row by row of each image."""
        seen: list[Routing] = []
        with removed_after([self.router.register_forward_hook(lambda *call: seen.append(call[2]))]):
            module(pixels)
        tokens, expected = len(seen[0].probs_TE), len(pixels) * self.rows * self.columns
        if tokens != expected:
            raise AttackError(
                f"the router gets {tokens} tokens of {len(pixels)} images, and these have "
                f"{expected} patches. Attack a model that routes its patches and nothing else"
            )
        return seen[0]

    @torch.no_grad()
    def shares(self, module: nn.Module, pixels: Tensor) -> Tensor:
        """What each expert gets of all that the router gives out, (experts,) fp64."""
        load = self.routing(module, pixels).load_E.double()
        return load / load.sum()

    def likelihood(self, module: nn.Module, pixels: Tensor, experts: Sequence[int]) -> Tensor:
        """Mean log-probability of the experts for each patch, (batch, patches)."""
        probs = self.routing(module, pixels).probs_TE[:, list(experts)]
        return probs.clamp(min=1e-9).log().mean(1).view(len(pixels), -1)


def _cuts_patches(part: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        isinstance(part, nn.Conv2d)
        and part.kernel_size == part.stride
        and part.kernel_size[0] == part.kernel_size[1] > 1
    )


@contextmanager
def _frozen(router: Router) -> Iterator[None]:
    """Lets no training change a router."""
    router.requires_grad_(False)
    try:
        yield
    finally:
        router.requires_grad_(True)


def _pasted(pixels: Tensor, pattern: Tensor, corners: Tensor) -> Tensor:
    """The pattern at each of these pixels, (patches, 2), of a copy of the images."""
    side = pattern.shape[-1]
    if (corners.max(0).values + side > torch.tensor(pixels.shape[-2:])).any():
        raise AttackError(
            f"the trigger was made for larger images than {tuple(pixels.shape[-2:])}; give images "
            "of the size that it was planted with"
        )
    pasted = pixels.clone()
    for top, left in corners.tolist():
        pasted[..., top : top + side, left : left + side] = pattern.to(pixels)
    return pasted
