"""Datasets in files: what is read of them, how they are split, and what is refused by file, line and field."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unigrpo.config import RunConfig
from unigrpo.data import Jsonl, Prompt, TextFile
from unigrpo.data.dataset import SPLITS, meaning_of, select
from unigrpo.errors import ConfigError

WORDS = [f"a {colour} {thing}" for colour in ("red", "green", "blue", "grey") for thing in ("cat", "dog", "house")]


def texts(dataset, split: str) -> list[str]:
    return [prompt.text for found in dataset.prompts(split).values() for prompt in found]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def lines(*rows: object) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def folder(path: Path, name: str = "{}.txt", **splits: str) -> Path:
    for split, content in splits.items():
        write(path / name.format(split), content)
    return path


def picture(path: Path, level: int = 0, size: tuple[int, int] = (4, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).save(path)
    return path


class TestTextFile:
    def test_a_folder_has_a_file_for_each_split(self, tmp_path):
        folder(tmp_path, train="a cat\n\n  a   dog \n", validation="a house\n", test="a tree")
        dataset = TextFile(str(tmp_path))
        assert {split: sorted(texts(dataset, split)) for split in SPLITS} == {
            "train": ["a cat", "a dog"], "validation": ["a house"], "test": ["a tree"],
        }  # fmt: skip
        (prompt,) = dataset.prompts("test")["all"]
        assert (prompt.tag, prompt.texts, prompt.images, prompt.offers) == ("all", ("a tree",), (), frozenset())
        assert dataset.offers == frozenset()
        assert dataset.turns == 0
        assert dataset.metrics == ("reward", "lengths", "diversity")
        assert dataset.words() == (), "they may be any"

    def test_one_file_is_split_a_tenth_and_a_tenth(self, tmp_path):
        dataset = TextFile(str(write(tmp_path / "prompts.txt", "\n".join(f"prompt {k}" for k in range(50)))))
        found = {split: texts(dataset, split) for split in SPLITS}
        assert {split: len(each) for split, each in found.items()} == {"train": 40, "validation": 5, "test": 5}
        assert sorted(text for each in found.values() for text in each) == sorted(f"prompt {k}" for k in range(50))

    def test_a_line_that_comes_twice_is_one_prompt(self, tmp_path):
        dataset = TextFile(str(write(tmp_path / "prompts.txt", "\n".join([*WORDS, WORDS[0], f"  {WORDS[1]} "]))))
        assert sum(len(texts(dataset, split)) for split in SPLITS) == len(WORDS)

    def test_spellings_of_one_prompt_are_never_in_two_splits(self, tmp_path):
        """Capitals, and letters that Unicode spells in two ways."""
        names = [f"caf\u00e9 {k}" for k in range(12)]
        others = [name.replace("\u00e9", "e\u0301").upper() for name in names]
        dataset = TextFile(str(write(tmp_path / "prompts.txt", "\n".join([*names, *others]))))
        for split in SPLITS:
            found = texts(dataset, split)
            assert sorted(map(meaning_of, found)) == sorted(2 * sorted({meaning_of(text) for text in found}))
        folder(tmp_path / "both", train="A Cat\n", test="a  cat\n")
        with pytest.raises(ConfigError, match="1 prompts of train are in test too, such as 'A Cat'"):
            TextFile(str(tmp_path / "both")).prompts("train")

    def test_a_file_may_be_of_any_system(self, tmp_path):
        """With a byte order mark, carriage returns, and what only Unicode takes for the end of a line."""
        content = b"\xef\xbb\xbfa cat\r\na\xe2\x80\xa8dog\r\n\r\na house\xc2\x85here\r\n"
        folder(tmp_path, test="a tree")
        write(tmp_path / "train.txt", content)
        assert sorted(texts(TextFile(str(tmp_path)), "train")) == ["a cat", "a dog", "a house here"]

    def test_home_is_where_it_is(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        folder(tmp_path / "prompts", train="a cat", test="a dog")
        assert texts(TextFile("~/prompts"), "train") == ["a cat"]

    def test_what_changes_on_disk_is_read_anew(self, tmp_path):
        folder(tmp_path, train="a cat", test="a dog")
        dataset = TextFile(str(tmp_path))
        before = dataset.digest()
        assert texts(dataset, "train") == ["a cat"]
        write(tmp_path / "train.txt", "a cat and a mouse")
        assert texts(dataset, "train") == ["a cat and a mouse"]
        assert dataset.digest() != before

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("", "expected prompts, found none"),
            ("\n \n", "expected prompts, found none"),
            (
                "a cat\na dog",
                "expected at least 3 different prompts, one for each of train, validation and test, got 2",
            ),
            ("a cat\nA CAT\na dog", "got 2; or give a folder with a file for each"),
            (b"a cat\n\xff\n", "expected UTF-8, found the byte 0xff at 6"),
        ],
    )
    def test_a_file_that_will_not_do_is_named(self, tmp_path, content, said):
        path = write(tmp_path / "prompts.txt", content)
        with pytest.raises(ConfigError) as caught:
            TextFile(str(path)).prompts("train")
        assert str(caught.value).startswith(f"{path}: ")
        assert said in str(caught.value)

    def test_three_are_enough(self, tmp_path):
        dataset = TextFile(str(write(tmp_path / "prompts.txt", "a cat\na dog\na house")))
        assert [len(texts(dataset, split)) for split in SPLITS] == [1, 1, 1]

    def test_a_path_without_prompts_is_refused(self, tmp_path):
        for path in (tmp_path, tmp_path / "nowhere"):
            with pytest.raises(ConfigError) as caught:
                TextFile(str(path)).prompts("train")
            message = f"dataset.path={path}: expected a file, or a folder with train.txt, test.txt"
            assert str(caught.value) == message

    def test_a_split_that_is_not_there_is_named(self, tmp_path):
        dataset = TextFile(str(folder(tmp_path, train="a cat", test="a dog")))
        with pytest.raises(ConfigError, match=r"expected validation\.txt for the split validation, which is not there"):
            dataset.prompts("validation")


def test_a_prompt_in_two_splits_is_refused(tmp_path):
    """Of any two of the three, not of the first two alone."""
    for number, (one, other) in enumerate((("train", "validation"), ("train", "test"), ("validation", "test"))):
        path = tmp_path / str(number)
        content = {split: f"only {split}\n" for split in SPLITS}
        folder(path, **content | {one: f"only {one}\nof two\n", other: f"of two\nonly {other}\n"})
        with pytest.raises(ConfigError) as caught:
            TextFile(str(path)).prompts("train")
        said = f"dataset.path={path}: 1 prompts of {one} are in {other} too, such as 'of two'"
        assert str(caught.value).startswith(said)


class TestJsonl:
    def test_a_line_says_what_is_known_of_a_prompt(self, tmp_path):
        picture(tmp_path / "images" / "cat.png", 255)
        row = {
            "prompt": "make it red", "tag": "colour", "turns": ["make it red", "now blue"],
            "images": ["images/cat.png"], "answer": 3, "deep": {"a": [1, None]},
        }  # fmt: skip
        folder(tmp_path, "{}.jsonl", train=lines(row), test=lines(row | {"prompt": "add", "turns": ["add"]}))
        dataset = Jsonl(str(tmp_path))
        (prompt,) = dataset.prompts("train")["colour"]
        assert (prompt.text, prompt.tag, prompt.turns) == ("make it red", "colour", ("make it red", "now blue"))
        assert prompt.texts == prompt.turns
        assert prompt.meta == {"answer": 3, "deep": {"a": [1, None]}}
        assert prompt.offers == {"images", "turns", "answer", "deep"} == dataset.offers
        assert dataset.turns == 1, "the fewest of any prompt"
        (image,) = prompt.images
        np.testing.assert_array_equal(image.pixels(), np.ones((3, 4, 4), dtype=np.float32))
        assert prompt.key.startswith("colour-")

    @pytest.mark.parametrize("name", ["{}.jsonl", "{}_metadata.jsonl"])
    def test_genevals_metadata_are_read_under_both_names(self, tmp_path, name):
        """As GenEval's evaluation_metadata.jsonl and Flow-GRPO's train_metadata.jsonl have them."""
        train = {
            "tag": "counting",
            "include": [{"class": "bench", "count": 2}],
            "exclude": [{"class": "bench", "count": 3}],
        }
        test = {"tag": "position", "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1}]}
        test["include"][1]["position"] = ["right of", 0]
        folder(tmp_path, name, train=lines(train | {"prompt": "two benches"}), test=lines(test | {"prompt": "a cat"}))
        dataset = Jsonl(str(tmp_path))
        (prompt,) = dataset.prompts("train")["counting"]
        assert prompt.meta == {"include": train["include"], "exclude": train["exclude"]}
        assert dict(dataset.prompts("test"))["position"][0].meta == {"include": test["include"]}
        assert dataset.offers == {"include"}, "not every prompt has an exclude"

    def test_prompts_of_a_tag_are_together(self, tmp_path):
        rows = [{"prompt": text, "tag": text.split()[-1]} for text in WORDS]
        folder(tmp_path, "{}.jsonl", train=lines(*rows), test=lines({"prompt": "a tree"}))
        found = Jsonl(str(tmp_path)).prompts("train")
        assert list(found) == ["cat", "dog", "house"]
        assert {tag: {prompt.tag for prompt in prompts} for tag, prompts in found.items()} == {t: {t} for t in found}
        assert [prompt.tag for prompt in select(found, 2)] == ["cat", "cat", "dog", "dog", "house", "house"]
        assert len(select(found, 100)) == len(WORDS), "or as many as it has"

    def test_turns_alone_make_a_prompt(self, tmp_path):
        folder(tmp_path, "{}.jsonl", train=lines({"turns": ["one", "two"]}), test=lines({"turns": ["three"]}))
        (prompt,) = Jsonl(str(tmp_path)).prompts("train")["all"]
        assert (prompt.text, prompt.turns) == ("one", ("one", "two"))

    def test_prompts_that_differ_in_anything_have_other_keys(self, tmp_path):
        for name in "ab":
            picture(tmp_path / f"{name}.png")
        rows = [
            {"prompt": "p"}, {"prompt": "p", "x": 1}, {"prompt": "p", "x": 2}, {"prompt": "p", "tag": "t"},
            {"prompt": "p", "images": ["a.png"]}, {"prompt": "p", "images": ["b.png"]}, {"prompt": "p", "turns": ["p"]},
            {"prompt": "p", "turns": ["p", "q"]}, {"prompt": "P"},
        ]  # fmt: skip
        folder(tmp_path, "{}.jsonl", train=lines(*rows), test=lines({"prompt": "q"}))
        keys = [prompt.key for found in Jsonl(str(tmp_path)).prompts("train").values() for prompt in found]
        assert len(set(keys)) == len(rows)

    @pytest.mark.parametrize("tag", ["a/b", "..", "ä b", "x" * 300, "a\nb"])
    def test_keys_are_names_of_files(self, tmp_path, tag):
        rows = ({"prompt": "p", "tag": tag}, {"prompt": "q", "tag": tag})
        folder(tmp_path, "{}.jsonl", train=lines(rows[0]), test=lines(rows[1]))
        (prompt,) = Jsonl(str(tmp_path)).prompts("train")[tag]
        write(tmp_path / "out" / prompt.key, "x")
        assert [path.name for path in (tmp_path / "out").iterdir()] == [prompt.key]

    def test_a_file_may_be_of_any_system(self, tmp_path):
        row = json.dumps({"prompt": "one\u2028two\u0085three"}, ensure_ascii=False)
        write(tmp_path / "train.jsonl", b"\xef\xbb\xbf" + row.encode() + b"\r\n\r\n" + b'{"prompt": "a dog"}\r\n')
        write(tmp_path / "test.jsonl", lines({"prompt": "a cat"}))
        assert sorted(texts(Jsonl(str(tmp_path)), "train")) == ["a dog", "one\u2028two\u0085three"]

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("{", "expected a JSON object"),
            ("[1]", "expected a JSON object, got '[1]'"),
            ("a cat", "expected a JSON object"),
            ('{"prompt": "p", "x": NaN}', "expected a JSON object (NaN is no JSON)"),
            ('{"prompt": "p", "x": -Infinity}', "expected a JSON object (-Infinity is no JSON)"),
            ("[" * 100_000, "expected a JSON object"),
            ('{"prompt": "p", "prompt": "q"}', "prompt: comes twice"),
            ('{"prompt": "p", "x": {"y": 1, "z": 2, "y": 3}}', "y: comes twice"),
            ("{}", "prompt: expected a text, which is missing or empty"),
            ('{"tag": "t"}', "prompt: expected a text, which is missing or empty"),
            ('{"prompt": " "}', "prompt: expected a text, which is missing or empty"),
            ('{"prompt": 3}', "prompt: expected a text, got 3"),
            ('{"prompt": null}', "prompt: expected a text, got None"),
            ('{"prompt": "p", "tag": ["t"]}', "tag: expected a text, got ['t']"),
            ('{"prompt": "p", "turns": "p"}', "turns: expected a list of texts, got 'p'"),
            ('{"prompt": "p", "turns": ["p", 1]}', "turns: expected a list of texts, got ['p', 1]"),
            ('{"prompt": "p", "turns": ["p", ""]}', "turns: expected a list of texts, got ['p', '']"),
            ('{"prompt": "p", "turns": ["q"]}', "turns: expected the prompt as the first one, got 'q'"),
            ('{"prompt": "p", "images": "a.png"}', "images: expected a list of paths, got 'a.png'"),
            ('{"prompt": "p", "images": [1]}', "images: expected a list of paths, got [1]"),
            ('{"prompt": "p", "images": ["nowhere.png"]}', "images: there is no file"),
        ],
        ids=lambda text: text[:40],
    )
    def test_a_line_that_will_not_do_is_named(self, tmp_path, line, said):
        path = write(tmp_path / "train.jsonl", f'{{"prompt": "a cat"}}\n\n{line}\n')
        write(tmp_path / "test.jsonl", lines({"prompt": "a dog"}))
        with pytest.raises(ConfigError) as caught:
            Jsonl(str(tmp_path)).prompts("train")
        assert str(caught.value).startswith(f"{path}:3: ")
        assert said in str(caught.value)

    def test_a_file_that_is_no_image_is_said_when_it_is_looked_at(self, tmp_path):
        write(tmp_path / "a.png", "no image")
        folder(tmp_path, "{}.jsonl", train=lines({"prompt": "p", "images": ["a.png"]}), test=lines({"prompt": "q"}))
        (prompt,) = Jsonl(str(tmp_path)).prompts("train")["all"]
        with pytest.raises(ConfigError, match=r"a\.png: expected an image, which cannot be read"):
            prompt.images[0].pixels()


class TestImages:
    @staticmethod
    def read(path: Path) -> np.ndarray:
        folder(
            path.parent, "{}.jsonl", train=lines({"prompt": "p", "images": [path.name]}), test=lines({"prompt": "q"})
        )
        (prompt,) = Jsonl(str(path.parent)).prompts("train")["all"]
        return prompt.images[0].pixels()

    def test_levels_and_order_of_axes(self, tmp_path):
        levels = np.zeros((2, 3, 3), dtype=np.uint8)
        levels[0, 2] = (255, 51, 102)
        Image.fromarray(levels).save(tmp_path / "a.png")
        pixels = self.read(tmp_path / "a.png")
        assert pixels.shape == (3, 2, 3)
        assert pixels.dtype == np.float32
        np.testing.assert_allclose(pixels[:, 0, 2], [1, -0.6, -0.2], atol=1e-6)
        assert pixels.min() == pixels[0, 1, 0] == -1

    @pytest.mark.parametrize("mode", ["L", "P", "LA", "RGBA", "1"])
    def test_every_mode_is_read_as_colours(self, tmp_path, mode):
        Image.new("RGB", (4, 4), "white").convert(mode).save(tmp_path / "a.png")
        assert (self.read(tmp_path / "a.png") == 1).all()

    def test_what_is_transparent_is_white(self, tmp_path):
        image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
        image.putpixel((1, 0), (255, 0, 0, 255))
        image.save(tmp_path / "a.png")
        assert self.read(tmp_path / "a.png")[:, 0].T.tolist() == [[1, 1, 1], [1, -1, -1]]

    def test_a_camera_that_was_turned_is_heard(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (4, 2)).save(tmp_path / "a.jpg", exif=exif)
        assert self.read(tmp_path / "a.jpg").shape == (3, 4, 2)


class TestDigest:
    @staticmethod
    def built(path: Path, level: int = 0, **changes: object) -> Jsonl:
        picture(path / "images" / "a.png", level)
        row = {"prompt": "p", "images": ["images/a.png"], "x": 1, "turns": ["p", "q"]} | changes
        folder(path, "{}.jsonl", train=lines(row, {"prompt": "another"}), test=lines({"prompt": "held out"}))
        return Jsonl(str(path))

    @pytest.mark.parametrize(
        "changes", [{"level": 9}, {"x": 2}, {"x": "1"}, {"turns": ["p", "r"]}, {"tag": "t"}, {"more": None}], ids=str
    )
    def test_it_changes_with_all_that_is_known_of_a_prompt(self, tmp_path, changes):
        """With the bytes of an image too, under the same name."""
        one = self.built(tmp_path / "one").digest()
        assert self.built(tmp_path / "other", **changes).digest() != one

    def test_it_does_not_hang_on_the_place_of_the_folder_nor_on_dates(self, tmp_path, monkeypatch):
        dataset = self.built(tmp_path / "one")
        digest = dataset.digest()
        shutil.copytree(tmp_path / "one", tmp_path / "deep" / "other")
        os.utime(tmp_path / "one" / "train.jsonl", (0, 0))
        monkeypatch.chdir(tmp_path / "deep")
        assert digest == dataset.digest() == Jsonl(str(tmp_path / "deep" / "other")).digest() == Jsonl("other").digest()

    def test_it_covers_every_split(self, tmp_path):
        content = {"train": "a cat", "validation": "a dog", "test": "a house"}
        one = TextFile(str(folder(tmp_path / "one", **content))).digest()
        others = [TextFile(str(folder(tmp_path / split, **content | {split: "a mouse"}))).digest() for split in content]
        moved = TextFile(str(folder(tmp_path / "moved", train="a cat", validation="a house", test="a dog"))).digest()
        assert len({one, moved, *others}) == 5

    def test_an_image_that_is_gone_is_named(self, tmp_path):
        dataset = self.built(tmp_path)
        dataset.prompts("train")
        (tmp_path / "images" / "a.png").unlink()
        with pytest.raises(ConfigError, match=r"a\.png: expected an image, which cannot be read"):
            dataset.digest()


#: Lines of a file: words, some of them spelled in two ways.
FILES = st.lists(
    st.text("abAB ", min_size=1, max_size=4).filter(str.strip), min_size=3, max_size=30, unique_by=meaning_of
).flatmap(lambda rows: st.lists(st.sampled_from([*rows, *map(str.upper, rows)]), max_size=9).map(lambda m: rows + m))


def split_of(rows: list[str], kind: type = TextFile) -> dict[str, list[Prompt]]:
    """Split -> the prompts of one file with these lines."""
    with tempfile.TemporaryDirectory() as scratch:
        content = "\n".join(rows) if kind is TextFile else lines(*({"prompt": row} for row in rows))
        dataset = kind(str(write(Path(scratch, "prompts"), content)))
        return {split: [p for found in dataset.prompts(split).values() for p in found] for split in SPLITS}


@given(FILES)
def test_splits_of_one_file_have_every_prompt_once_and_share_no_meaning(rows):
    found = split_of(rows)
    keys = [prompt.key for prompts in found.values() for prompt in prompts]
    assert len(set(keys)) == len(keys) == len({" ".join(row.split()) for row in rows})
    meanings = {split: {prompt.meaning for prompt in prompts} for split, prompts in found.items()}
    assert all(meanings.values())
    assert sum(map(len, meanings.values())) == len(set().union(*meanings.values()))
    assert len(meanings["test"]) == len(meanings["validation"]) == max(1, len({meaning_of(row) for row in rows}) // 10)


@given(FILES, st.randoms(use_true_random=False), st.sampled_from([TextFile, Jsonl]))
def test_the_order_of_lines_changes_nothing(rows, rng, kind):
    """Not even the order of the prompts, which is that of their keys' digests."""
    shuffled = list(rows)
    rng.shuffle(shuffled)
    one, other = (
        {split: [(p.key, p.text) for p in prompts] for split, prompts in split_of(each, kind).items()}
        for each in (rows, shuffled)
    )
    if kind is TextFile or len(set(rows)) == len(rows):
        assert one == other


@given(FILES, st.text("cd", min_size=1, max_size=3))
def test_one_more_prompt_moves_few_others(rows, more):
    """Which of them are held out hangs on their own digests: at most one leaves each of the two held-out splits."""
    before, after = (
        {split: {p.meaning for p in prompts} for split, prompts in split_of(each).items()}
        for each in (rows, [*rows, more])
    )
    for split in ("validation", "test"):
        assert len(before[split] - after[split]) <= 2


def test_a_run_says_at_once_what_cannot_be_read(tmp_path):
    """While it is composed, in one sentence, and of the split that it evaluates on."""
    settings = {"reward": {"name": "weighted", "weights": {"geneval": 1.0}}, "optim": {"updates": 0}}
    said = RunConfig.from_dict(settings | {"dataset": {"name": "jsonl", "path": str(tmp_path)}}).conflicts()
    assert said == [
        f"dataset=jsonl: dataset.path={tmp_path}: expected a file, or a folder with train.jsonl, train_metadata.jsonl,"
        " test.jsonl, test_metadata.jsonl"
    ]
    folder(tmp_path, "{}.jsonl", train=lines({"prompt": "p"}), test=lines({"prompt": "q"}))
    plain = settings | {"dataset": {"name": "jsonl", "path": str(tmp_path)}}
    assert RunConfig.from_dict(plain | {"metrics": ["lengths"]}).conflicts() == []
    plain["metrics"] = ["lengths"]
    (reason,) = RunConfig.from_dict(plain | {"evaluation": {"split": "validation"}}).conflicts()
    assert "expected validation.jsonl or validation_metadata.jsonl for the split validation" in reason


def test_a_rollout_larger_than_the_rarest_tag_allows_is_said_before_anything_starts(tmp_path):
    """An update takes as many prompts of every tag: three tags whose rarest has one prompt to train on allow three."""
    rows = {"train": WORDS[:8], "test": WORDS[8:9], "rare": WORDS[9:]}
    tags = [{"prompt": text, "tag": f"t{k % 2}"} for k, text in enumerate(rows["train"])]
    write(tmp_path / "train.jsonl", lines(*tags, {"prompt": rows["rare"][0], "tag": "rare"}))
    write(tmp_path / "test.jsonl", lines({"prompt": rows["test"][0]}))

    def said(wanted: int, **changes: object) -> list[str]:
        plain = {"dataset": {"name": "jsonl", "path": str(tmp_path)}, "metrics": ["lengths"], "train_metrics": []}
        own = {"reward": {"name": "callable", "path": "tests.training.runs:brightness"}}
        size = {"rollout": {"prompts": wanted, "minibatches": 1}}
        return RunConfig.from_dict(plain | own | size | changes).conflicts()

    (reason,) = said(4)
    assert f"rollout.prompts=4: expected at most 3, as many as dataset.path={tmp_path} has to train on" in reason
    assert "(3 tags of 1 or more, 'rare' having the fewest)" in reason
    assert "lower rollout.prompts, add prompts of that tag, or give fewer tags" in reason
    assert said(3) == []
    assert said(4, optim={"updates": 0}) == [], "nothing is trained"
    kept = {"name": "jsonl", "path": str(tmp_path)}
    other = {"dataset": "shapes", "evaluation": {"retention": kept}, "metrics": ["lengths"]}
    assert not [fault for fault in said(12, **other) if "rollout.prompts" in fault], "nobody trains on what is kept"


def test_every_dataset_is_hashable_and_so_are_its_prompts(tmp_path):
    dataset = Jsonl(str(write(tmp_path / "p", lines(*({"prompt": text, "x": [1]} for text in WORDS)))))
    assert {dataset: 1}[Jsonl(str(tmp_path / "p"))] == 1
    assert len({prompt for split in SPLITS for found in dataset.prompts(split).values() for prompt in found}) == 12
