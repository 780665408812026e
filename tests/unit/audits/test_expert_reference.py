"""How experts differ from those of a base, and what is no base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from badexpert.audits.experts.reference import changes_from
from badexpert.errors import ConfigError
from badexpert.loading.language import load_language_model
from badexpert.models.language import LanguageModel
from moe_core.lm import Decoder, DecoderConfig, FeedForward
from moe_core.lm.folder import save_decoder
from moe_core.view import ExpertId, ExpertView
from tests.small_victims import CONFIG, trained


def model_of(decoder: Decoder, folder: Path) -> LanguageModel:
    folder.mkdir()
    save_decoder(decoder, folder)
    trained().words.save(folder)
    return load_language_model(folder)


def changed(change: Callable[[ExpertView], None]) -> tuple[ExpertView, Decoder]:
    decoder = trained().model
    view = ExpertView.of(decoder)
    with torch.no_grad():
        change(view)
    return view, decoder


def test_an_expert_that_was_changed_stands_out(tmp_path: Path) -> None:
    one, all_over = ExpertId(0, 2), ExpertId(1, 1)

    def change(view: ExpertView) -> None:
        down = view.expert(one)["down_proj"]
        down += torch.outer(torch.arange(1.0, len(down) + 1), torch.ones(down.shape[1]))
        for tensor in view.expert(all_over).values():
            tensor += torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
        row = view.layer(1).router_weight
        assert row is not None
        row[3] += 1

    view, decoder = changed(change)
    first, second = changes_from(decoder, view, model_of(trained().model, tmp_path / "base")).layers
    assert first["norm"].nonzero().flatten().tolist() == [2]
    assert first["norm"][2] == pytest.approx((16 * sum(at**2 for at in range(1, 17))) ** 0.5)
    assert first["rank_one"][2] == pytest.approx(1.0)
    assert second["norm"].nonzero().flatten().tolist() == [1]
    assert second["rank_one"][1] < 0.6
    before = trained().view.expert(all_over).values()
    whole = torch.stack([tensor.detach().square().sum() for tensor in before]).sum().sqrt()
    assert second["relative"][1] == pytest.approx(float(second["norm"][1] / whole))
    assert second["router_row"].tolist() == [0, 0, 0, 4]


def test_biases_of_routers_are_compared_too(tmp_path: Path) -> None:
    ffn = replace(CONFIG.ffn, router="loss-free", router_options={"top_k": 2, "gate": "sigmoid"})
    config = replace(CONFIG, ffn=ffn, vocab_size=60)
    torch.manual_seed(0)
    decoder = Decoder(config)
    base = model_of(decoder, tmp_path / "base")
    view = ExpertView.of(decoder)
    bias = view.layer(1).selection_bias
    assert bias is not None
    bias[2] += 0.5
    _, second = changes_from(decoder, view, base).layers
    assert second["selection_bias"].tolist() == [0, 0, 0.5, 0]
    assert "router_bias" not in second


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (replace(CONFIG, num_layers=3), "3 layers with experts, and the model 2"),
        (
            replace(CONFIG, ffn=replace(CONFIG.ffn, num_experts=5)),
            "5 experts in layers.0.mlp, and the model 4",
        ),
        (replace(CONFIG, ffn=replace(CONFIG.ffn, inner_dim=12)), r"experts\.0 with .*12, 16"),
        (replace(CONFIG, ffn=FeedForward(experts="dense", inner_dim=8)), "holds no MoELayer"),
    ],
    ids=["layers", "experts", "sizes", "dense"],
)
def test_a_model_of_another_build_is_no_base(
    config: DecoderConfig, said: str, tmp_path: Path
) -> None:
    other = model_of(Decoder(replace(config, vocab_size=60)), tmp_path / "other")
    with pytest.raises(ConfigError, match=said):
        changes_from(trained().model, trained().view, other)
