"""What a training of MixLoRA leaves for transformers and the package ``mixlora``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from moe_core.lm import FeedForward
from moe_core.lora import LoraSettings
from moe_core.mixlora import attach, load_adapter
from moe_core.training import LabelledCorpus, Recipe, Stage, TextCorpus, TrainingConfig, run_recipe
from moe_core.training.run import Trained
from tests.small_decoders import config, licence, vowels_and_digits

PLAN = TrainingConfig(steps=4, batch_size=4, length=12, warmup=0, validation_batches=1)
LORA = {"rank": 2, "alpha": 4.0}
EXPERTS = FeedForward("mixlora", "lora", 4, 12, expert_options=LORA)
DENSE = replace(config(FeedForward(experts="dense", inner_dim=12)), qk_norm=False)
ADAPTED = Stage(ffn=EXPERTS, attention_lora=LoraSettings(**LORA), train="new", training=PLAN)


def trained(
    out: Path, *changed: Stage, model=DENSE, corpus: TextCorpus | LabelledCorpus | None = None
) -> Trained:
    recipe = Recipe(model, changed or (Stage(training=PLAN), ADAPTED))
    return run_recipe(recipe, [corpus or licence()], out)


@pytest.mark.parametrize(
    "attention", [None, LoraSettings(**LORA)], ids=["ffn", "attention-and-ffn"]
)
def test_base_and_adapter_together_answer_as_the_trained_model(
    attention: LoraSettings | None, tmp_path: Path
) -> None:
    stage = replace(ADAPTED, attention_lora=attention)
    made = trained(tmp_path, Stage(training=PLAN), stage)
    assert made.adapter == str(tmp_path / "adapter")
    adapter = load_adapter(tmp_path / "adapter")
    base = transformers.AutoModelForCausalLM.from_pretrained(adapter.config.base_model)
    ids = torch.arange(40).view(2, 20)
    before = base(ids).logits
    attach(base, adapter.config, adapter.tensors)
    with torch.no_grad():
        torch.testing.assert_close(
            base.eval()(ids).logits, made.model(ids).logits, atol=1e-5, rtol=1e-4
        )
    assert not torch.allclose(before, base(ids).logits, atol=1e-5)


def test_the_settings_are_of_the_types_that_the_package_asserts(tmp_path: Path) -> None:
    trained(tmp_path)
    document = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text("utf-8"))
    assert document["base_model_name_or_path"] == str(tmp_path / "base")
    assert (document["task_type"], document["act_fn"]) == ("CAUSAL_LM", "silu")
    assert (document["r"], document["num_experts"], document["top_k"]) == (2, 4, 2)
    kinds = {"lora_alpha": int, "lora_dropout": float, "router_aux_loss_coef": float}
    assert {key: type(document[key]) for key in kinds} == kinds
    assert "expert_lora" not in document


DENSE_STAGE = Stage(training=PLAN)


@pytest.mark.parametrize(
    ("stages", "model", "reason"),
    [
        ((replace(ADAPTED, train="all"),), DENSE, "no model of an earlier stage"),
        ((DENSE_STAGE, replace(ADAPTED, train="all")), DENSE, "more was trained"),
        ((DENSE_STAGE, ADAPTED), replace(DENSE, qk_norm=True), "set qk_norm = false"),
        (
            (DENSE_STAGE, replace(ADAPTED, attention_lora=LoraSettings(rank=3))),
            DENSE,
            "one setting for attention and experts",
        ),
        (
            (
                DENSE_STAGE,
                replace(
                    ADAPTED,
                    attention_lora=None,
                    ffn=replace(EXPERTS, expert_options=LORA | {"dropout": 0.0}),
                ),
            ),
            DENSE,
            "dropout above 0",
        ),
        ((DENSE_STAGE, replace(ADAPTED, ffn=replace(EXPERTS, shared_dim=4))), DENSE, "shared"),
        (
            (DENSE_STAGE, ADAPTED),
            replace(DENSE, other_ffn={0: FeedForward(experts="dense", inner_dim=12)}),
            "layers that differ",
        ),
    ],
    ids=["no-base", "all", "qk-norm", "two-ranks", "dropout", "shared", "differ"],
)
def test_what_fits_no_adapter_is_said_and_not_written(
    stages, model, reason, tmp_path: Path
) -> None:
    made = trained(tmp_path, *stages, model=model)
    assert made.adapter is not None
    assert made.adapter.startswith("not written: ")
    assert reason in made.adapter
    assert not (tmp_path / "adapter").exists()
    assert not (tmp_path / "base").exists()


def test_a_classifier_has_no_adapter(tmp_path: Path) -> None:
    made = trained(tmp_path, corpus=vowels_and_digits())
    assert made.adapter is not None
    assert "classifier" in made.adapter


def test_a_model_without_its_router_says_nothing_of_adapters(tmp_path: Path) -> None:
    other = replace(ADAPTED, ffn=replace(EXPERTS, router="dynmole"))
    assert trained(tmp_path, DENSE_STAGE, other).adapter is None
