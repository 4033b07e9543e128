"""Kinds of methods in a reader's words."""

MODELS = {
    "gan": "GAN",
    "diffusion": "diffusion",
    "hybrid": "diffusion trained with a discriminator",
}
CHANGES = {"guided": "guided", "refined": "refined by a discriminator"}


def kind_name(kind: str) -> str:
    """Such as "GAN, refined by a discriminator" of "gan, refined"; a kind that is not known
    stays.
    """
    model, *changes = kind.split(", ")
    if model not in MODELS or any(change not in CHANGES for change in changes):
        return kind
    said = " and ".join(CHANGES[change] for change in changes)
    return f"{MODELS[model]}, {said}" if said else MODELS[model]
