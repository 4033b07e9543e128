"""From settings to a source, for folders, parquet and hub names."""

import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from hybridgen.data import parquet, tables
from hybridgen.data.decode import FORMATS
from hybridgen.data.files import hub_folders
from hybridgen.data.images import ImageSource, split_validation, to_float
from hybridgen.data.load import DataSettings, load_data
from hybridgen.data.source import Shard, Source
from hybridgen.errors import InputError

Folder = Callable[..., Path]
Picture = Callable[..., Image.Image]
Hub = Callable[[datasets.DatasetDict], None]


def load(path: Path | str, **settings: object) -> ImageSource:
    source = load_data(DataSettings(path=str(path), **settings))  # type: ignore[arg-type]
    assert isinstance(source, ImageSource)
    return source


def pictures(x: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in x}


def original(picture: Picture, seed: int, mode: str = "L") -> bytes:
    pixels = np.asarray(picture(seed, mode=mode))
    return (pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)).tobytes()


@pytest.mark.parametrize(("path", "shape"), [("digits", (1, 8, 8)), ("ring", (2,)), ("grid", (2,))])
def test_the_built_in_sets_go_by_their_names(path: str, shape: tuple[int, ...]) -> None:
    source = load_data(DataSettings(path=path))
    assert isinstance(source, Source)
    assert (source.name, source.shape, source.classes) == (path, shape, 0)
    assert load_data(DataSettings(path=path, labels=True)).classes in (8, 10, 25)


def test_built_in_mixtures_have_unit_scale() -> None:
    for path in ("ring", "grid"):
        x, _ = load_data(DataSettings(path=path)).reference("train", 20_000)
        assert abs(float(x.std()) - 1) < 0.02


def test_built_in_sets_refuse_another_form() -> None:
    for settings in (
        DataSettings(resolution=16),
        DataSettings(channels=3),
        DataSettings(path="ring", resolution=8),
    ):
        with pytest.raises(InputError, match=r"leave|data\.resolution"):
            load_data(settings)
    assert load_data(DataSettings(resolution=8, channels=1)).shape == (1, 8, 8)


def test_a_flat_folder_is_split_into_disjoint_parts(folder: Folder, picture: Picture) -> None:
    source = load(folder(count=12))
    assert (len(source.train), len(source.held_out), source.name) == (10, 2, "pictures")
    assert not pictures(source.train) & pictures(source.held_out)
    everything = pictures(source.train) | pictures(source.held_out)
    assert everything == {original(picture, i) for i in range(12)}
    assert source.train_labels is None
    assert torch.equal(load(folder(count=12)).held_out, source.held_out)
    assert len(load(folder(count=12), held_out=0.5).held_out) == 6


def test_class_folders_become_labels(folder: Folder, picture: Picture) -> None:
    source = load(folder("cat", "ant", "bee"), labels=True)
    assert source.classes == 3
    assert source.train_labels is not None
    assert source.held_out_labels is not None
    groups = {
        name: {original(picture, 100 * k + i) for i in range(6)} for k, name in enumerate("cab")
    }
    for images, labels in (
        (source.train, source.train_labels),
        (source.held_out, source.held_out_labels),
    ):
        for image, label in zip(images, labels, strict=True):
            assert image.numpy().tobytes() in groups["abc"[int(label)]]


def test_labels_are_for_judging_only_unless_they_are_asked_for(folder: Folder) -> None:
    source = load(folder("cat", "ant"))
    assert source.classes == 0
    assert next(source.batches(Shard(batch=2, seed=0)))[1] is None
    label = source.reference("held_out", 2)[1]
    assert label is not None
    assert label.dtype == torch.int64


def test_split_folders_are_parts_and_not_classes(folder: Folder, picture: Picture) -> None:
    source = load(folder("train", "test"))
    assert pictures(source.train) == {original(picture, i) for i in range(6)}
    assert pictures(source.held_out) == {original(picture, 100 + i) for i in range(6)}
    assert source.train_labels is None
    with pytest.raises(InputError, match=r"its columns are \['image'\]"):
        load(folder("train", "test"), labels=True)


def test_classes_inside_split_folders_become_labels(folder: Folder) -> None:
    source = load(folder("train/a", "train/b", "val/a", "val/b", count=3), labels=True)
    assert (len(source.train), len(source.held_out), source.classes) == (6, 6, 2)
    assert source.held_out_labels is not None
    assert sorted(source.held_out_labels.tolist()) == [0, 0, 0, 1, 1, 1]


def test_a_class_may_be_called_test_and_a_file_train(folder: Folder, picture: Picture) -> None:
    root = folder("test", "other")
    (root / "test" / "000.png").rename(root / "test" / "train_0.png")
    source = load(root, labels=True)
    assert (source.size + len(source.held_out), source.classes) == (12, 2)


def test_an_image_added_later_is_found(folder: Folder, picture: Picture) -> None:
    assert load(folder(count=4)).size == 3
    assert load(folder(count=8)).size == 7


def test_colour_images_stay_in_colour(folder: Folder, picture: Picture) -> None:
    source = load(folder(mode="RGB"))
    assert source.shape == (3, 8, 8)
    assert original(picture, 0, "RGB") in pictures(source.train) | pictures(source.held_out)
    assert load(folder(mode="RGB"), channels=1).shape == (1, 8, 8)


def test_a_truncated_image_among_good_ones_is_named_by_its_path(folder: Folder) -> None:
    root = folder("a", "b")
    broken = root / "b" / "004.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(InputError) as caught:
        load(root)
    assert str(broken) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mixed_sizes_need_a_resolution(folder: Folder, picture: Picture) -> None:
    root = folder()
    picture(9, (20, 12)).save(root / "odd.png")
    with pytest.raises(InputError, match=r"odd\.png is 20x12 pixels .* data\.resolution"):
        load(root)
    assert load(root, resolution=10).shape == (1, 10, 10)


def test_mixed_modes_need_channels(folder: Folder, picture: Picture) -> None:
    root = folder()
    picture(9, mode="RGB").save(root / "odd.png")
    with pytest.raises(InputError, match=r"odd\.png is colour .* data\.channels"):
        load(root)
    assert load(root, channels=1).shape == (1, 8, 8)
    assert load(root, channels=3).shape == (3, 8, 8)


def test_oblong_images_need_a_resolution(folder: Folder) -> None:
    root = folder(size=(12, 8))
    with pytest.raises(InputError, match=r"12x8 pixels, expected a square"):
        load(root)
    assert load(root, resolution=8).shape == (1, 8, 8)


def test_a_folder_named_from_inside_has_its_name(folder: Folder, monkeypatch) -> None:
    root = folder(size=(8, 8))
    (root.parent / "inside").mkdir(exist_ok=True)
    monkeypatch.chdir(root.parent / "inside")
    assert load(f"../{root.name}").name == load(root).name == root.name
    monkeypatch.chdir(root)
    assert load(".").name == root.name
    assert load(f"{root}/../{root.name}/../{root.name}").name == root.name


def test_missing_folders_and_folders_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no folder '\./nowhere'"):
        load("./nowhere")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="holds no image"):
        load(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        load(tmp_path / "notes.txt")


def test_one_image_is_too_few_to_hold_one_out(folder: Folder) -> None:
    with pytest.raises(InputError, match="leaves one part empty"):
        load(folder(count=1))


def test_labels_that_are_not_there_are_refused(folder: Folder) -> None:
    with pytest.raises(InputError, match=r"data\.labels is set, .* no usable labels"):
        load(folder(), labels=True)


def save_parquet(root: Path, name: str, seeds: range, picture: Picture, **columns: object) -> None:
    root.mkdir(exist_ok=True)
    table = datasets.Dataset.from_dict(
        {"picture": [picture(seed) for seed in seeds], **columns},
        features=datasets.Features(
            {
                "picture": datasets.Image(),
                **{
                    key: datasets.Value("string" if isinstance(values[0], str) else "int64")  # type: ignore[index]
                    for key, values in columns.items()
                },
            }
        ),
    )
    table.to_parquet(root / f"{name}.parquet")


def test_a_parquet_directory_with_a_test_file_holds_it_out(
    tmp_path: Path, picture: Picture
) -> None:
    save_parquet(tmp_path / "set", "train", range(6), picture, label=[3, 7, 3, 7, 3, 9])
    save_parquet(tmp_path / "set", "test", range(50, 53), picture, label=[9, 3, 7])
    source = load(tmp_path / "set", labels=True)
    assert pictures(source.train) == {original(picture, i) for i in range(6)}
    assert pictures(source.held_out) == {original(picture, i) for i in range(50, 53)}
    assert source.classes == 3
    assert source.train_labels is not None
    assert source.train_labels.tolist() == [0, 1, 0, 1, 0, 2]
    assert source.held_out_labels is not None
    assert source.held_out_labels.tolist() == [2, 0, 1]


def test_a_parquet_file_alone_is_split(tmp_path: Path, picture: Picture) -> None:
    save_parquet(tmp_path, "all", range(6), picture, label=list("aabbab"))
    source = load(tmp_path / "all.parquet", labels=True)
    assert (source.size, len(source.held_out), source.classes) == (5, 1, 2)


def test_a_damaged_image_in_parquet_is_named_by_its_row(tmp_path: Path, picture: Picture) -> None:
    save_parquet(tmp_path, "all", range(6), picture)
    table = datasets.Dataset.from_parquet(str(tmp_path / "all.parquet"))
    cells = list(table.cast_column("picture", datasets.Image(decode=False))["picture"])
    cells[4] = {"bytes": cells[4]["bytes"][:50], "path": "four.png"}
    datasets.Dataset.from_dict({"img": cells}).to_parquet(tmp_path / "all.parquet")
    with pytest.raises(InputError, match=r"image 4 of split 'train' of .*\(four\.png\) cannot be"):
        load(tmp_path / "all.parquet")


def test_parquet_without_images_or_damaged_is_refused(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"x": [1, 2]}).to_parquet(tmp_path / "numbers.parquet")
    with pytest.raises(InputError, match=r"columns \['x'\] and none of them holds images"):
        load(tmp_path / "numbers.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    with pytest.raises(InputError, match=r"broken\.parquet cannot be read"):
        load(tmp_path / "broken.parquet")


def test_a_hub_name_while_offline_is_one_sentence_and_quick() -> None:
    program = (
        "from hybridgen.data.load import DataSettings, load_data\n"
        "from hybridgen.errors import InputError\n"
        "import datasets, time\n"
        "start = time.perf_counter()\n"
        "try:\n"
        "    load_data(DataSettings(path='nobody/nothing'))\n"
        "except InputError as error:\n"
        "    print(time.perf_counter() - start, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    seconds, sentence = done.stdout.strip().split(" ", 1)
    assert float(seconds) < 10
    assert sentence.startswith("'nobody/nothing' is no folder here")
    assert "HF_HUB_OFFLINE" in sentence
    assert "\n" not in sentence


def test_an_unreachable_hub_is_one_sentence_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"hub cannot be reached \(no route to host\)"):
        load("nobody/nothing")
    assert time.perf_counter() - start < 5


def test_a_hub_name_that_does_not_exist_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise huggingface_hub.errors.RepositoryNotFoundError.__new__(
            huggingface_hub.errors.RepositoryNotFoundError
        )

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    with pytest.raises(InputError, match="neither a folder here nor a data set"):
        load("nobody/nothing")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Lets every name on the hub mean these tables."""

    def serve(tables: datasets.DatasetDict) -> None:
        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *a, **k: None)
        monkeypatch.setattr(datasets, "load_dataset", lambda name: tables)

    return serve


def test_a_hub_set_is_loaded_like_a_local_one(hub: Hub, picture: Picture) -> None:
    cells = {"image": [picture(i) for i in range(5)], "label": [0, 1, 0, 1, 1]}
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes", "never"])}
    )
    table = datasets.Dataset.from_dict(cells, features=features)
    hub(datasets.DatasetDict(train=table, validation=table.select([1, 2])))
    source = load("somebody/something", labels=True)
    assert (source.size, source.classes, source.name) == (5, 3, "something")
    assert torch.equal(source.held_out, source.train[[1, 2]])
    assert pictures(source.reference("train", 5)[0]) == pictures(to_float(source.train))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"resolution": 0}, "resolution"),
        ({"channels": 2}, "channels"),
        ({"held_out": 0.0}, "held_out"),
        ({"held_out": 1.0}, "held_out"),
        ({"memory_limit": -1.0}, "memory_limit"),
        ({"workers": -1}, "workers"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(InputError, match=rf"^{words} must be"):
        DataSettings(**settings)


@pytest.mark.parametrize("values", [[0.5, 1.5, 0.5], [None, 1, 2]])
def test_entries_that_are_no_classes_are_no_labels(
    tmp_path: Path, picture: Picture, values: list
) -> None:
    table = datasets.Dataset.from_dict(
        {"image": [picture(i) for i in range(3)], "label": values}
    ).cast_column("image", datasets.Image())
    table.to_parquet(tmp_path / "set.parquet")
    assert load(tmp_path / "set.parquet").train_labels is None
    with pytest.raises(InputError, match="not every entry of 'label'"):
        load(tmp_path / "set.parquet", labels=True)


@pytest.mark.parametrize("name", ["label", "target"])
def test_lists_and_structs_are_no_labels(tmp_path: Path, picture: Picture, name: str) -> None:
    for kind, value in (("lists", [1, 2]), ("structs", {"a": 1})):
        cells = {"image": [picture(i) for i in range(3)], name: [value] * 3}
        table = datasets.Dataset.from_dict(cells).cast_column("image", datasets.Image())
        table.to_parquet(tmp_path / f"{kind}.parquet")
        assert load(tmp_path / f"{kind}.parquet").train_labels is None
        with pytest.raises(InputError, match=f"not every entry of '{name}'"):
            load(tmp_path / f"{kind}.parquet", labels=True)


def test_labels_beyond_the_classes_are_no_labels(tmp_path: Path, picture: Picture) -> None:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    cells = {"image": [picture(i) for i in range(3)], "label": [0, 1, 1]}
    table = datasets.Dataset.from_dict(cells, features=features).data.table
    table = table.set_column(1, table.schema.field("label"), pyarrow.array([0, 1, 2]))
    pyarrow.parquet.write_table(table, tmp_path / "set.parquet")
    with pytest.raises(InputError, match="'label' has 2 classes and entries to 2"):
        load(tmp_path / "set.parquet", labels=True)


def test_a_struct_without_bytes_is_no_column_of_images(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    datasets.Dataset.from_dict({"image": [{"bytes": 1, "path": "a"}] * 3}).to_parquet(path)
    with pytest.raises(InputError, match="none of them holds images"):
        load(path)


def test_names_that_are_no_text_are_left_out(folder: Folder, picture: Picture) -> None:
    root = folder()
    for name in (b"\xff.png", b"\xfe/0.png"):
        path = Path(os.fsdecode(os.fsencode(root) + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            picture(77).save(file, "png")
    with pytest.warns(UserWarning, match="2 files and folders whose names are not in UTF-8"):
        assert load(root).size == 5


def test_a_cell_that_names_a_pipe_is_refused(tmp_path: Path, picture: Picture) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    cells = {"image": [{"bytes": None, "path": "pipe.png"}] * 3}
    features = datasets.Features({"image": datasets.Image(decode=False)})
    table = datasets.Dataset.from_dict(cells, features=features)
    pyarrow.parquet.write_table(table.data.table, tmp_path / "set.parquet")
    with pytest.warns(UserWarning), pytest.raises(InputError, match=r"pipe.png is no regular file"):
        load(tmp_path)


def test_hidden_class_labels_are_no_labels(hub: Hub, picture: Picture) -> None:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    cells = {"image": [picture(i) for i in range(3)], "label": [0, 1, -1]}
    hub(datasets.DatasetDict({"all": datasets.Dataset.from_dict(cells, features=features)}))
    assert load("somebody/something").train_labels is None
    with pytest.raises(InputError, match="hidden"):
        load("somebody/something", labels=True)


def test_several_splits_without_a_training_one_are_refused(hub: Hub, picture: Picture) -> None:
    table = datasets.Dataset.from_dict({"image": [picture()]})
    hub(datasets.DatasetDict({"left": table, "right": table}))
    with pytest.raises(InputError, match=r"splits \['left', 'right'\], expected one 'train'"):
        load("somebody/something")


def test_data_is_known_by_its_content_wherever_it_lies(folder: Folder, tmp_path: Path) -> None:
    root = folder("cat", "ant")
    before = load(root).identity
    assert load(root, labels=True).identity == before
    streamed = load_data(DataSettings(path=str(root), memory_limit=0.0))
    assert streamed.identity == before
    shutil.copytree(root, tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere", identity=before).identity == before
    for source in (load_data(DataSettings()), load_data(DataSettings(path="ring"))):
        assert load_data(DataSettings(path=source.name, identity=source.identity)).shape


def replaced(root: Path) -> None:
    """One image by another of its size in bytes."""
    path = root / "a" / "000.bmp"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")


CHANGES = {
    "added": lambda root: shutil.copy(root / "a" / "000.bmp", root / "a" / "new.bmp"),
    "removed": lambda root: (root / "a" / "001.bmp").unlink(),
    "renamed": lambda root: (root / "a" / "000.bmp").rename(root / "a" / "x.bmp"),
    "of another class": lambda root: (root / "a" / "000.bmp").rename(root / "b" / "x.bmp"),
    "replaced": replaced,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("limit", [2.0, 0.0])
def test_data_that_changed_is_refused(
    tmp_path: Path, picture: Picture, change: str, limit: float
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(4):
            picture(i).save(tmp_path / name / f"{i:03}.bmp")
    settings = DataSettings(path=str(tmp_path), memory_limit=limit)
    before = load_data(settings)
    CHANGES[change](tmp_path)
    with pytest.raises(InputError, match="are not those that were trained on"):
        load_data(replace(settings, identity=before.identity))


def test_a_large_set_is_known_by_names_and_sizes(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder()
    monkeypatch.setattr("hybridgen.data.tables._HASHED", 10)
    before = load(root).identity
    assert load(root, identity=before).size == 5
    shutil.copy(root / "000.png", root / "new.png")
    with pytest.raises(InputError, match="are not those"):
        load(root, identity=before)


def test_other_labels_are_other_data(tmp_path: Path, picture: Picture) -> None:
    sets = {name: list(name) for name in ("aabbab", "aabbba")}
    for name, labels in sets.items():
        save_parquet(tmp_path / name, "all", range(6), picture, label=labels)
    one, other = (load(tmp_path / name / "all.parquet").identity for name in sets)
    assert one != other


def test_validation_kept_from_training_is_other_data(folder: Folder) -> None:
    source = load(folder(count=12))
    assert split_validation(source, 0.5).identity not in ("", source.identity)


@pytest.mark.parametrize("held", ["val", "test"])
def test_splits_beside_other_folders_stay_splits(
    folder: Folder, picture: Picture, held: str
) -> None:
    names = [f"{split}/{name}" for split in ("train", held) for name in "abc"]
    root = folder(*names, "extra", count=3)
    with pytest.warns(UserWarning, match="3 images beside the folders of the splits"):
        source = load(root, labels=True)
    assert (source.size, len(source.held_out), source.classes) == (9, 9, 3)
    assert pictures(source.held_out) == {
        original(picture, 100 * k + i) for k in (3, 4, 5) for i in range(3)
    }


def test_a_class_may_be_called_train_where_nothing_is_held_out_by_name(folder: Folder) -> None:
    source = load(folder("bus", "train", count=3), labels=True)
    assert (source.size + len(source.held_out), source.classes) == (6, 2)


def test_folders_that_hold_everything_are_no_classes(folder: Folder) -> None:
    source = load(folder("images/cat", "images/ant", count=3), labels=True)
    assert (source.size + len(source.held_out), source.classes) == (6, 2)


def test_a_split_that_is_not_used_is_said(folder: Folder) -> None:
    with pytest.warns(UserWarning, match="4 examples of 'validation'"):
        source = load(folder("train", "val", "test", count=4))
    assert (source.size, len(source.held_out)) == (4, 4)


@pytest.mark.parametrize("path", ["/home/me/*.png", "../secret.parquet", "file:///etc/x.parquet"])
def test_the_page_of_a_hub_set_names_no_files_elsewhere(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    configs = [{"config_name": "default", "data_files": [{"split": "train", "path": [path]}]}]
    about = SimpleNamespace(card_data=huggingface_hub.DatasetCardData(configs=configs))
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: about)
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(InputError, match="outside of it"):
        load("somebody/something")


def test_what_is_left_out_is_said_with_numbers(folder: Folder, picture: Picture) -> None:
    root = folder("a", "b")
    for name in ("x.heic", "y.heic", "z.psd"):
        (root / "a" / name).write_bytes(b"?")
    (root / "notes.txt").write_text("hello")
    save_parquet(root / "a" / "tables", "more", range(3), picture)
    (root / "a" / "hole.png").symlink_to("nowhere")
    with pytest.warns(UserWarning) as said:
        assert load(root).size == 10
    words = str(said[0].message)
    assert "2 files ending in '.heic'" in words and "1 files ending in '.psd'" in words
    assert "1 parquet files beside images" in words and "1 entries that are no files" in words
    assert "txt" not in words


@pytest.mark.skipif("AVIF" not in FORMATS, reason="this Pillow cannot write AVIF")
def test_every_format_that_is_named_is_read(tmp_path: Path, picture: Picture) -> None:
    for number, name in enumerate(FORMATS):
        picture(number, mode="RGB").save(tmp_path / f"{number}.{name.lower()}", name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = load(tmp_path)
    assert source.size + len(source.held_out) == len(FORMATS)


def test_links_to_folders_are_followed_once(folder: Folder, tmp_path: Path) -> None:
    root = folder("a")
    shutil.copytree(root / "a", tmp_path / "elsewhere")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "above").symlink_to(tmp_path)
    with pytest.warns(UserWarning, match="2 links to folders that are read already or hold"):
        source = load(root, labels=True)
    assert (source.size + len(source.held_out), source.classes) == (12, 2)


def test_a_readme_beside_parquet_names_no_other_files(tmp_path: Path, picture: Picture) -> None:
    save_parquet(tmp_path / "private", "train", range(50, 56), picture)
    save_parquet(tmp_path / "set", "train", range(6), picture)
    (tmp_path / "set" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
        f"    path: {tmp_path}/private/*.parquet\n---\n"
    )
    source = load(tmp_path / "set")
    assert pictures(source.train) | pictures(source.held_out) == {
        original(picture, i) for i in range(6)
    }


@pytest.mark.parametrize("path", ["../private.png", "{}/private.png", "a/../../private.png"])
def test_a_cell_that_leads_out_of_the_data_is_refused(
    tmp_path: Path, picture: Picture, path: str
) -> None:
    for name in ("private.png", "set/inside.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(1).save(tmp_path / name)
    file = tmp_path / "set" / "train.parquet"
    for name in ("inside.png", path.format(tmp_path)):
        cells = [{"bytes": None, "path": name}] * 6
        pyarrow.parquet.write_table(pyarrow.table({"image": cells}), file)
        if name == "inside.png":
            assert pictures(load(file).train) == {original(picture, 1)}
    with pytest.raises(InputError, match="lies outside of the data"):
        load(file)


def test_parquet_that_unpacks_to_more_than_there_is_room_for_is_refused(
    tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_parquet(tmp_path, "all", range(6), picture)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(InputError, match=r"unpack to .* make room or set HF_DATASETS_CACHE"):
        load(tmp_path / "all.parquet")


@pytest.mark.parametrize("encoding", ["dictionary", "delta", "arrow's dictionary"])
@pytest.mark.parametrize("scarce", ["disk", "memory"])
def test_one_cell_stored_for_many_rows_is_counted_as_often_without_unpacking_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, scarce: str
) -> None:
    length, count = (2**17, 100) if encoding == "delta" else (2**20, 50_000)
    cells = pyarrow.DictionaryArray.from_arrays(np.zeros(count, dtype=np.int32), [b"x" * length])
    if encoding == "delta":
        cells = cells.cast("binary")
    table = pyarrow.table({"image": pyarrow.StructArray.from_arrays([cells], ["bytes"])})
    pyarrow.parquet.write_table(
        table,
        path := tmp_path / "bomb.parquet",
        store_schema=encoding == "arrow's dictionary",
        use_dictionary=encoding != "delta",
        column_encoding={"image.bytes": "DELTA_BYTE_ARRAY"} if encoding == "delta" else None,
    )
    del cells, table
    assert path.stat().st_size < 2**21
    size = length * count
    free, memory = (size - 1, 2 * size) if scarce == "disk" else (2 * size, size - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=memory))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("unpacked"))
    pool = pyarrow.default_memory_pool()
    before = pool.max_memory()
    expected = "GiB or more, and" if scarce == "disk" else "a row group of .* write it in smaller"
    with pytest.raises(InputError, match=expected):
        load(path)
    assert pool.max_memory() - before < 2**27


def test_many_rows_of_their_own_or_of_a_short_repeated_value_are_no_bomb(
    tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_parquet(tmp_path, "all", range(60), picture, label=["a", "b"] * 30, note=["c" * 99] * 60)
    path = str(tmp_path / "all.parquet")
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table, path)  # with dictionaries of images, too
    *_, counted = parquet._sizes(path, 0)
    assert counted == pytest.approx(table.nbytes, rel=0.1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2.2 * table.nbytes))
    parquet.check_unpacked(tmp_path, [path, path])
    with pytest.raises(InputError, match="or more"):
        parquet.check_unpacked(tmp_path, [path] * 3)


MISSING = {
    "texts of one length": pyarrow.nulls(500, pyarrow.binary(2**16)),
    "lists of fixed size": pyarrow.nulls(500, pyarrow.list_(pyarrow.float64(), 9_000)),
    "such lists of texts": pyarrow.nulls(500, pyarrow.list_(pyarrow.string(), 9_000)),
    "lists of such lists": pyarrow.array(
        [[None] * 100] * 5, pyarrow.list_(pyarrow.list_(pyarrow.list_(pyarrow.int8(), 99), 99))
    ),
    "zeros as differences": pyarrow.array(np.zeros(2**20, dtype=np.int64)),
    "numbers": pyarrow.nulls(2**20, pyarrow.int64()),
    "decimals": pyarrow.nulls(2**18, pyarrow.decimal128(5)),
    "fixed lists of lists": pyarrow.nulls(500, pyarrow.list_(pyarrow.list_(pyarrow.int8()), 1_000)),
    "empty lists": pyarrow.array([[]] * 2**18, pyarrow.list_(pyarrow.list_(pyarrow.int8()))),
}


@pytest.mark.parametrize("name", MISSING)
@pytest.mark.parametrize("store_schema", [True, False])
def test_values_that_take_no_place_in_a_file_are_counted_as_they_are_in_a_table(
    tmp_path: Path, name: str, store_schema: bool
) -> None:
    path, table = str(tmp_path / "set.parquet"), pyarrow.table({"x": MISSING[name]})
    encoding = {"column_encoding": "DELTA_BINARY_PACKED"} if name.startswith("zeros") else {}
    options = {"use_dictionary": False, "store_schema": store_schema, **encoding}
    pyarrow.parquet.write_table(table, path, **options)
    try:
        size = pyarrow.parquet.read_table(path).nbytes
    except pyarrow.ArrowInvalid:  # pyarrow 21 does not read missing lists of fixed size
        pytest.skip("this pyarrow cannot read what it wrote")
    assert Path(path).stat().st_size < 0.1 * size or not store_schema
    *_, counted = parquet._sizes(path, 0)
    assert 0.9 * size <= counted <= 8 * size


def test_lists_of_fixed_size_are_counted_once(tmp_path: Path) -> None:
    kind = pyarrow.list_(pyarrow.float32(), 768)
    rows = pyarrow.array([np.ones(768, dtype=np.float32)] * 50, kind)
    pyarrow.parquet.write_table(pyarrow.table({"x": rows}), path := str(tmp_path / "set.parquet"))
    *_, counted = parquet._sizes(path, 0)
    assert counted == pytest.approx(50 * 768 * 4, rel=0.3)


def test_an_image_of_too_many_bytes_is_refused(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder()
    monkeypatch.setattr("hybridgen.data.tables.MOST_BYTES", 100)
    with pytest.raises(InputError, match="more than the 0 that an image may have"):
        load(root)


def test_another_version_of_a_hub_sets_page_is_not_other_data(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    names = [f"{tmp_path}/datasets--a--b/snapshots/{v * 40}/train/0.png" for v in "0f"]
    roots = tuple(str(folder) for folder in hub_folders())
    assert len({tables._name(name, roots) for name in names}) == 1
    assert tables._name(names[0].replace("0.png", "1.png"), roots) != tables._name(names[0], roots)
