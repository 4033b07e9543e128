from hybridgen.networks.ladder import ladder


def test_images_halve_to_a_base_and_channels_double_to_a_cap():
    small = ladder(resolution=28, channels=1, width=32)
    assert (small.sizes, small.widths) == ((7, 14, 28), (128, 64, 32))
    large = ladder(resolution=256, channels=3, width=16)
    assert large.sizes == (4, 8, 16, 32, 64, 128, 256)
    assert large.widths == (128, 128, 128, 128, 64, 32, 16)
    assert ladder(resolution=64, channels=3, width=128).widths == (512, 512, 512, 256, 128)
    assert ladder(resolution=8, channels=3, width=768).widths == (768, 768)
