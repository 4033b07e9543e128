"""Saved pipelines that are there, and everything else that a name can be."""

import json

import diffusers
import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from hybridgen.errors import InputError
from hybridgen.sampling.load import load_denoiser


def saved(folder, scheduler=None, **config):
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(4,),
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=2,
        add_attention=False,
        **config,
    )
    diffusers.DDPMPipeline(unet, scheduler or diffusers.DDPMScheduler()).save_pretrained(folder)
    return folder


def refusal(name, **arguments):
    with pytest.raises(InputError) as error:
        load_denoiser(name, **arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_saved_pipeline_is_loaded_with_its_labels(tmp_path):
    denoiser = load_denoiser(saved(tmp_path, num_class_embeds=5), null=4)
    assert (denoiser.shape, denoiser.classes, denoiser.null) == ((1, 8, 8), 4, 4)


def test_a_missing_folder_is_one_sentence(tmp_path):
    assert "there is no folder" in refusal(tmp_path / "nothing")
    assert "there is no folder ../nothing/at/all" in refusal("../nothing/at/all")


def test_a_folder_without_a_pipeline_is_one_sentence(tmp_path):
    assert "expected model_index.json there" in refusal(tmp_path)
    assert "expected model_index.json there" in refusal(saved(tmp_path) / "unet")


def test_a_hub_name_while_offline_is_one_sentence(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "(HF_HUB_OFFLINE is set) or its cache" in refusal("nobody/nothing")


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch):
    def unreachable(*args, **how):
        raise OSError("name or service\nnot known")

    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    assert "(name or service not known)" in refusal("nobody/nothing")


@pytest.mark.parametrize("text", ["{", "[]", '{"a": ' * 100_000])
def test_a_damaged_index_is_one_sentence(tmp_path, text):
    (saved(tmp_path) / "model_index.json").write_text(text)
    assert "model_index.json" in refusal(tmp_path)


def test_damaged_or_missing_weights_are_one_sentence(tmp_path):
    weights = saved(tmp_path) / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "the unet of" in refusal(tmp_path)
    weights.unlink()
    assert "save it again, its weights as safetensors" in refusal(tmp_path)


def test_a_text_conditional_pipeline_is_one_sentence(tmp_path):
    path = saved(tmp_path) / "model_index.json"
    index = json.loads(path.read_text())
    index |= {"_class_name": "StableDiffusionPipeline", "text_encoder": ["transformers", "CLIP"]}
    path.write_text(json.dumps(index))
    assert "is StableDiffusionPipeline, which needs text or images" in refusal(tmp_path)


def test_a_pipeline_of_other_parts_is_one_sentence(tmp_path):
    path = saved(tmp_path) / "model_index.json"
    index = json.loads(path.read_text()) | {"unet": ["elsewhere", "Secret"]}
    path.write_text(json.dumps(index))
    assert "no network and scheduler of diffusers" in refusal(tmp_path)


def test_a_scheduler_that_is_not_known_is_one_sentence(tmp_path):
    saved(tmp_path, diffusers.PNDMScheduler())
    assert "no conversion for a PNDMScheduler" in refusal(tmp_path)


def test_a_null_id_that_is_not_there_is_one_sentence(tmp_path):
    assert "null=5 is not among the 5 label ids" in refusal(
        saved(tmp_path, num_class_embeds=5), null=5
    )


def rewritten(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize(
    "entry",
    [
        ["diffusers", "AutoencoderKL"],
        ["diffusers", "DiffusionPipeline"],
        ["diffusers", "__doc__"],
        ["diffusers", ["UNet2DModel"]],
        ["os", "system"],
        "UNet2DModel",
    ],
)
def test_classes_that_are_not_named_here_are_not_built(tmp_path, entry):
    rewritten(saved(tmp_path) / "model_index.json", unet=entry)
    assert "no network and scheduler of diffusers" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("file", "entries", "words"),
    [
        ("unet/config.json", {"block_out_channels": [2**19]}, "describe a network of"),
        ("unet/config.json", {"layers_per_block": 10**7}, "layers_per_block is 1e+07"),
        ("unet/config.json", {"block_out_channels": [4] * 10**4}, "layers of block_out_channels"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**13}, "is 1e+13"),
        (
            "scheduler/scheduler_config.json",
            {"num_train_timesteps": float("inf")},
            "cannot be read",
        ),
    ],
)
def test_settings_that_no_model_has_are_refused_before_anything_is_built(
    tmp_path, file, entries, words
):
    rewritten(saved(tmp_path) / file, **entries)
    assert words in refusal(tmp_path)


def test_weights_that_are_no_numbers_are_said(tmp_path):
    weights = saved(tmp_path) / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, weights)
    assert "are not finite" in refusal(tmp_path)


def test_pickled_weights_are_not_read(tmp_path):
    weights = saved(tmp_path) / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    assert "as safetensors" in refusal(tmp_path)
