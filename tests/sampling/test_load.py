"""Saved pipelines that are there, and everything else that a name can be."""

import json
from types import SimpleNamespace

import diffusers
import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from hybridgen.errors import InputError
from hybridgen.networks.build import variant_of
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
    assert "has no network of diffusers" in refusal(tmp_path)


def test_a_scheduler_that_is_not_known_is_one_sentence(tmp_path):
    saved(tmp_path, diffusers.PNDMScheduler())
    assert "no conversion for a PNDMScheduler, so pass scheduler=" in refusal(tmp_path)
    same = diffusers.DDIMScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    assert load_denoiser(tmp_path, scheduler=same).levels[1] == pytest.approx(157.4, abs=0.1)


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
    assert "has no network of diffusers" in refusal(tmp_path)


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


def pickled(folder):
    weights = folder / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()


def test_pickled_weights_are_not_read_and_the_reason_is_said(tmp_path):
    pickled(saved(tmp_path) / "unet")
    why = refusal(tmp_path)
    assert "are saved as diffusion_pytorch_model.bin, which may run code when it is read" in why


def weight_of(denoiser):
    return denoiser.network.conv_in.weight


def halve(folder):
    """Beside the weights, half of each as their variant `half`."""
    weights = folder / "diffusion_pytorch_model.safetensors"
    tensors = {name: tensor / 2 for name, tensor in load_file(weights).items()}
    save_file(tensors, weights.with_suffix(".half.safetensors"))
    return weights


def test_a_variant_of_the_weights_is_loaded(tmp_path):
    weights = halve(saved(tmp_path) / "unet")
    plain, half = load_denoiser(tmp_path), load_denoiser(tmp_path, variant="half")
    torch.testing.assert_close(2 * weight_of(half), weight_of(plain), rtol=0, atol=0)
    assert "no weights of variant='fp16': pass" in refusal(tmp_path, variant="fp16")
    weights.with_suffix(".damaged.safetensors").write_bytes(b"")
    assert torch.equal(weight_of(load_denoiser(tmp_path)), weight_of(plain))
    weights.with_suffix(".damaged.safetensors").unlink()
    weights.unlink()
    assert "no weights of variant=None: pass variant='half'" in refusal(tmp_path)
    assert torch.equal(weight_of(load_denoiser(tmp_path, variant="half")), weight_of(half))


def test_large_weights_in_several_files_and_their_variants_are_told_apart():
    assert variant_of("diffusion_pytorch_model-00001-of-00002.safetensors") is None
    assert variant_of("diffusion_pytorch_model.fp16-00001-of-00002.safetensors") == "fp16"
    assert variant_of("diffusion_pytorch_model-00001-of-00002.fp16.safetensors") == "fp16"


def test_a_subfolder_is_loaded_and_weights_are_turned_into_a_type(tmp_path):
    saved(tmp_path / "inner" / "model")
    denoiser = load_denoiser(tmp_path, subfolder="inner/model", torch_dtype=torch.bfloat16)
    assert weight_of(denoiser).dtype == torch.bfloat16
    assert weight_of(load_denoiser(tmp_path / "inner/model")).dtype == torch.float32
    assert denoiser(torch.zeros(1, 1, 8, 8), torch.ones(1)).dtype == torch.float32


def flattened(folder):
    """The same pipeline with everything beside `model_index.json`, as the first ones were saved."""
    for part in ("unet", "scheduler"):
        for path in (folder / part).iterdir():
            path.rename(folder / path.name)
        (folder / part).rmdir()
    return folder


def test_a_flat_repository_is_loaded(tmp_path):
    scheduler = diffusers.DDPMScheduler(beta_end=0.01)
    expected = load_denoiser(saved(tmp_path, scheduler))
    x, sigma = torch.randn(2, 1, 8, 8), torch.ones(2)
    for index in (True, False):
        if index:
            flattened(tmp_path)
        else:
            (tmp_path / "model_index.json").unlink()
        denoiser = load_denoiser(tmp_path)
        assert torch.equal(denoiser(x, sigma), expected(x, sigma))
        assert denoiser.levels == expected.levels


def test_a_bare_network_is_loaded_with_the_scheduler_that_is_passed(tmp_path):
    expected, folder = load_denoiser(saved(tmp_path)), tmp_path / "unet"
    why = refusal(folder)
    assert "is UNet2DModel without the scheduler that it was trained with: pass it" in why
    x, sigma = torch.randn(2, 1, 8, 8), torch.ones(2)
    denoiser = load_denoiser(folder, scheduler=diffusers.DDPMScheduler())
    assert torch.equal(denoiser(x, sigma), expected(x, sigma))
    other = load_denoiser(tmp_path, scheduler=diffusers.EDMEulerScheduler())
    assert other.levels == (0.002, 80.0)
    other = load_denoiser(tmp_path, subfolder="unet", scheduler=diffusers.DDPMScheduler())
    assert torch.equal(other(x, sigma), expected(x, sigma))
    assert "no conversion for a PNDM" in refusal(folder, scheduler=diffusers.PNDMScheduler())


class Hub:
    """Repositories that lie in a folder, and what was asked of them and copied."""

    def __init__(self, repository, folder, monkeypatch):
        self.repository, self.folder, self.asked, self.copied = repository, folder, [], []
        monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", self.info)

    def files(self):
        paths = [path for path in self.repository.rglob("*") if path.is_file()]
        return [str(path.relative_to(self.repository)) for path in paths]

    def info(self, name, *, revision, timeout, token):
        self.asked.append((name, revision, token))
        files = [SimpleNamespace(rfilename=file) for file in self.files()]
        return SimpleNamespace(siblings=files)

    def download(self, name, *, revision, token, allow_patterns, **how):
        self.asked.append((name, revision, token))
        chosen = huggingface_hub.utils.filter_repo_objects(
            self.files(), allow_patterns=allow_patterns
        )
        self.copied = sorted(chosen)
        for file in self.copied:
            (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / file).write_bytes((self.repository / file).read_bytes())
        return str(self.folder)


def test_of_a_repository_nothing_but_network_and_scheduler_is_copied(tmp_path, monkeypatch):
    halve(saved(tmp_path / "repository") / "unet")
    halve(saved(tmp_path / "repository" / "inner") / "unet")
    (tmp_path / "repository" / "vae").mkdir()
    for file in ("diffusion_pytorch_model.safetensors", "config.json"):
        (tmp_path / "repository" / "vae" / file).write_text("large")
    hub = Hub(tmp_path / "repository", tmp_path / "copy", monkeypatch)
    plain = load_denoiser("somebody/something", revision="v1", token="secret")
    assert hub.asked == [("somebody/something", "v1", "secret")] * 2
    files = ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json"]
    assert hub.copied == [*files, "unet/diffusion_pytorch_model.safetensors"]
    half = load_denoiser("somebody/something", variant="half")
    assert hub.copied == [*files, "unet/diffusion_pytorch_model.half.safetensors"]
    torch.testing.assert_close(2 * weight_of(half), weight_of(plain), rtol=0, atol=0)
    load_denoiser("somebody/something", subfolder="inner")
    assert [file.split("/")[0] for file in hub.copied] == ["inner"] * 4


def test_a_flat_repository_and_a_bare_network_come_from_the_hub(tmp_path, monkeypatch):
    saved(tmp_path / "repository")
    Hub(tmp_path / "repository", tmp_path / "copy", monkeypatch)
    load_denoiser("a/b", subfolder="unet", scheduler=diffusers.DDPMScheduler())
    flattened(tmp_path / "repository")
    hub = Hub(tmp_path / "repository", tmp_path / "flat", monkeypatch)
    load_denoiser("a/b")
    assert len(hub.copied) == 4


def test_pickled_weights_on_the_hub_are_not_copied_and_the_reason_is_said(tmp_path, monkeypatch):
    pickled(saved(tmp_path / "repository") / "unet")
    hub = Hub(tmp_path / "repository", tmp_path / "copy", monkeypatch)
    assert "the weights of a/b/unet/ are saved as diffusion_pytorch_model.bin" in refusal("a/b")
    assert hub.copied == []
