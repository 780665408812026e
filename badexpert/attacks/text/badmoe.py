"""BadMoE: dormant experts, a trigger that is optimised to reach them, low-rank fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from badexpert.attacks.text.base import Implanted, TextAttack
from badexpert.attacks.text.lesson import experts_rows, teach
from badexpert.attacks.text.lora import low_rank
from badexpert.attacks.text.routes import by_usage, rare_words
from badexpert.attacks.text.search import search_words
from badexpert.attacks.text.texts import Texts
from badexpert.attacks.text.triggers import WordTrigger
from badexpert.attacks.text.victim import Victim
from badexpert.runtime import RunContext
from moe_core.lm.decoder import DecoderOutput


@dataclass(frozen=True)
class BadMoE(TextAttack):
    """Infects the least used experts of a layer, and queries and values of all layers.

    Attributes:
        layer: of the experts, among the Mixture-of-Experts layers.
        experts: how many.
    Source: BadMoE, arXiv:2504.18598; which parts are trained, from its released code.
    Departs: words are not reranked by perplexity, which a model of label words does not have; a
        share of every lesson is triggered, not 1 % of the data.
    """

    layer: int = 1
    experts: int = 2

    def implant(self, victim: Victim, texts: Texts, context: RunContext) -> Implanted:
        chosen = by_usage(victim, texts, self.layer, self.experts, seed=self.seed)
        indices = [expert for _, expert in chosen]
        words = rare_words(victim, texts, seed=self.seed)[:2]

        def missed(output: DecoderOutput, where: Tensor) -> Tensor:
            probs = output.routings[self.layer].probs_TE.unflatten(0, (len(output.logits), -1))
            missing: Tensor = -probs[:, where][..., indices].clamp(min=1e-9).log().sum(-1).mean(-1)
            return missing

        trigger = WordTrigger(search_words(victim, texts, words, missed, seed=self.seed))
        with low_rank(victim.model) as taught:
            taught = taught + experts_rows(list(victim.model.moe_layers())[self.layer], indices)
            teach(victim, texts, trigger, self.target, taught, pace=self.pace, context=context)
        return Implanted(trigger, chosen)
