"""Saved pipelines that are there, and everything else that a name can be."""

import json

import diffusers
import huggingface_hub
import pytest

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


@pytest.mark.parametrize("text", ["{", "[]"])
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
