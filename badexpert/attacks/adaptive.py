"""Adaptive: an attacker who knows this defence makes the trigger one that it does not see."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from badexpert.attacks.base import ModelAttack
from badexpert.attacks.blend import generated_picture
from badexpert.attacks.finetuning import fine_tune
from badexpert.attacks.images import Images
from badexpert.attacks.parameters import require_opacity, require_positive
from badexpert.attacks.patterns import find_pattern
from badexpert.cleanset import CleanSet
from badexpert.detectors.badexpert import BaDExpert
from badexpert.errors import AttackError, AuditError, CleanSetError
from badexpert.extraction import extract
from badexpert.extraction.comparison import EXPERTS
from badexpert.models.vision import VisionSuspect
from badexpert.preprocessing import Preprocessing
from badexpert.runtime import RunContext


@dataclass(frozen=True)
class Adaptive(ModelAttack):
    """``(1 - alpha) * image + alpha * pattern``, the pattern optimised against the detector.

    The backdoor is planted with a picture, by fine-tuning. Then, by turns, the attacker carries
    out the extraction on images of their own and changes the pattern so that the detector takes
    triggered images for clean ones while the model still answers the target. The model does not
    change any more.

    Attributes:
        alpha: opacity of the pattern, in (0, 1].
        share: of each batch that carries the trigger while it is planted.
        epochs: of the planting.
        lr: of the planting.
        rounds: how often the extraction is simulated; each pattern is made against all so far.
        samples: images for each simulated extraction.
        steps: of the search for the pattern, each round.
        evasion: weight of what is evaded beside the loss of the target.
        evades: ``score``, all that the detector adds up, or ``experts``, what the backdoor experts
            give to it.
    Source: Xie et al., ICLR 2024, arXiv:2308.12439, the adaptive attack on BaDExpert.
    Departs: the attacker faces this project's detector, several extractions of it at once.
    """

    alpha: float = 0.2
    share: float = 0.2
    epochs: int = 1
    lr: float = 0.01
    rounds: int = 2
    samples: int = 1000
    steps: int = 300
    evasion: float = 0.5
    evades: Literal["score", "experts"] = "score"

    def __post_init__(self) -> None:
        require_opacity(self.alpha)
        require_positive(self, "share", "epochs", "lr", "samples", "steps")

    def stamp(self, pixels: Tensor) -> Tensor:
        return self._blend(pixels, self.learned_tensor("pattern").to(pixels))

    def implant(self, module: nn.Module, images: Images, context: RunContext) -> Self:
        pattern = generated_picture(images.pixels.shape[1:], seed=self.seed)
        planted = replace(self, learned={"pattern": pattern})
        fine_tune(
            module,
            planted,
            images,
            share=self.share,
            epochs=self.epochs,
            lr=self.lr,
            context=context,
        )
        detectors: list[BaDExpert] = []
        for turn in range(self.rounds):
            detectors.append(self._simulated(module, images, turn, context))
            pattern = self._evading(pattern, module, detectors, images, context)
        return replace(self, learned={"pattern": pattern})

    def _blend(self, pixels: Tensor, pattern: Tensor) -> Tensor:
        return (1 - self.alpha) * pixels + self.alpha * pattern

    def _simulated(
        self, module: nn.Module, images: Images, turn: int, context: RunContext
    ) -> BaDExpert:
        """The defender's detector, as the attacker can guess it."""
        _, channels, height, width = images.pixels.shape
        plan = Preprocessing(height, width, channels, (0.0,) * channels, (1.0,) * channels)
        stream = f"adaptive {self.seed}, round {turn + 1}"
        order = torch.randperm(len(images), generator=context.generator(stream))
        mine = images.part(order[: self.samples])
        clean = CleanSet.from_tensors(mine.pixels, mine.labels, num_classes=images.num_classes)
        suspect = VisionSuspect(module, plan, images.num_classes)
        seeded = replace(context, seed=context.seed_for(stream))
        try:
            return BaDExpert(extract(suspect, clean, context=seeded))
        except (AuditError, CleanSetError) as error:
            raise AttackError(
                f"the extraction that the attacker simulates fails on this model: {error}"
            ) from error

    def _evading(
        self,
        pattern: Tensor,
        module: nn.Module,
        detectors: list[BaDExpert],
        images: Images,
        context: RunContext,
    ) -> Tensor:
        parts = EXPERTS if self.evades == "experts" else BaDExpert.parts

        def loss(pattern: Tensor, pixels: Tensor, labels: Tensor) -> Tensor:
            stamped = self._blend(pixels, pattern)
            wanted = self.relabel(labels, images.num_classes)
            scores = [
                detector.combine(detector.bundle.look(stamped, parts)).mean()
                for detector in detectors
            ]
            missed = cross_entropy(module(stamped).float(), wanted)
            return missed + self.evasion * torch.stack(scores).mean()

        return find_pattern(
            loss,
            pattern,
            module,
            images,
            task=f"adaptive {self.seed} against {len(detectors)}",
            steps=self.steps,
            context=context,
        )
