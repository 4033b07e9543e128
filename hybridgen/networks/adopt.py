"""Making a critic that was trained without noise into one that can learn about it."""

from typing import Any

from diffusers.models.modeling_utils import ModelMixin

from hybridgen.errors import InputError


def noise_conditional(critic: ModelMixin) -> ModelMixin:
    """A critic that looks at the noise level and, without noise, says what `critic` says.

    What it does about the level starts at zero, so at every level it sees its input rescaled to
    unit variance and judges it as if it were clean. A critic that already looks is returned itself.

    Raises:
        InputError: `critic` is not one of this package's.
    """
    config: Any = critic.config
    if "noise_conditional" not in config:
        raise InputError(
            f"a guide can start from a critic of this package, and {type(critic).__name__} is none"
        )
    if config["noise_conditional"]:
        return critic
    given = {key: value for key, value in config.items() if not key.startswith("_")}
    adopted = type(critic)(**{**given, "noise_conditional": True})
    missing, _ = adopted.load_state_dict(critic.state_dict(), strict=False)
    others = [name for name in missing if not name.startswith("noise.")]
    if others:
        raise InputError(f"the critic to start from lacks {others[0]}; save it again")
    return adopted
