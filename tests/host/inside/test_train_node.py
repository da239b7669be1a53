"""Mochi Train LoRA: what it refuses, what it shows, and what it leaves behind."""

import re
from pathlib import Path
from types import SimpleNamespace

import comfy.model_management as mm
import folder_paths
import pytest
from graphs import complaints, inputs_of
from PIL import Image

PROJECT = Path(__file__).resolve().parents[3]
TOY = (str(PROJECT / "tests" / "train" / "toy_trainer.py"), "Toy")
TINY, IN_FILE = "tiny (built in)", "in the file itself"
WIDGETS = {"name": "my_lora", "dit": TINY, "t5": TINY, "vae": TINY, "encoder_file": IN_FILE}
WIDGETS |= {"steps": 12, "learning_rate": 1e-3, "rank": 4, "alpha": 4.0, "batch": 1, "seed": 3, "restart": False}
WIDGETS |= {"frames": 0, "width": 0, "height": 0, "sample_every": 6, "sample_prompts": "a circle\n\n a star "}


@pytest.fixture(scope="module")
def clips(pack) -> str:
    """The data of a person, in ComfyUI's input folder."""
    folder = Path(folder_paths.get_input_directory(), "clips")
    write = pack.module("tests.train.toy_trainer").write_clips
    write(folder, "a red circle moves left", "a blue star moves up", "a green square moves right")
    return "clips"


@pytest.fixture
def shown(pack, monkeypatch) -> SimpleNamespace:
    """What the node shows: texts, and results before its end. A test may put a function that hears into `hear`."""
    shown = SimpleNamespace(texts=[], results=[], hear=lambda text: None)

    def show_text(text: str) -> None:
        shown.texts.append(text)
        shown.hear(text)

    for name in ("nodes.host.train", "nodes.host.train_shown", "nodes.train"):
        monkeypatch.setattr(pack.module(name), "show_text", show_text)
    monkeypatch.setattr(pack.module("nodes.host.train_shown"), "show_now", shown.results.append)
    return shown


@pytest.fixture
def toy(pack, shown, monkeypatch) -> SimpleNamespace:
    """What the node shows of a pretended trainer."""
    monkeypatch.setattr(pack.module("nodes.host.train"), "SERVICE", TOY)
    return shown


@pytest.fixture
def train(pack, clips):
    """Runs the node: its outputs, and what it shows at its end."""
    from executor import prepared

    def run(**widgets):
        output = prepared(pack.nodes["MochiParallelTrainLoRA"]).execute(**{"data": clips, **WIDGETS, **widgets})
        return (*output.result, output.ui)

    return run


def queued(**widgets) -> dict[str, str]:
    return complaints({"1": {"class_type": "MochiParallelTrainLoRA", "inputs": {**WIDGETS, **widgets}}})


def test_widgets_keep_their_order(pack):
    first = ["data", "name", "dit", "t5", "vae", "encoder_file", "steps", "learning_rate", "rank", "alpha"]
    first += ["frames", "width", "height", "batch", "sample_every", "sample_prompts", "seed", "restart"]
    more = ["gpus", "parallel", "mlp_rank", "dropout", "levels", "dtype", "format", "accumulate", "warmup", "ema"]
    last = ["hold_out", "windows", "recompute", "keep_prompts", "keep"]
    assert list(inputs_of("MochiParallelTrainLoRA")) == [*first, *more, *last]


def test_the_widgets_are_fine(clips):
    assert queued(data=clips) == {}
    assert queued(data=str(Path(folder_paths.get_input_directory(), clips)), name="a/b.safetensors") == {}


@pytest.mark.parametrize(
    ("widget", "value", "message"),
    [
        ("data", "", "data is empty"),
        ("data", "absent", "absent: there is no such folder"),
        ("data", "empty", "empty: there is nothing in it to train on"),
        ("data", "bare", r"bare: there is nothing in it to train on; clip.mp4: no caption \(clip.txt\)"),
        ("data", "empty/notes.md", "neither a folder nor"),
        ("name", "", "must be that of the LoRA"),
        ("name", "styles/", "must be that of the LoRA"),
        ("name", "../../away", "leaves ComfyUI's folder of LoRAs"),
        ("name", "/etc/away", "leaves ComfyUI's folder of LoRAs"),
        ("name", "a" * 300, "300|3[0-9][0-9] bytes long"),
        ("name", "a\0b", "no file name can hold"),
        ("dit", "absent.safetensors", "There is no 'absent.safetensors' in models/diffusion_models"),
        ("dit", "small_dit.safetensors", "they do not belong together"),
        ("t5", "absent.safetensors", "There is no 'absent.safetensors' in models/text_encoders"),
        ("t5", "small_t5/", "48 wide, but .* reads those of width 128: they do not belong together"),
        ("vae", "small_decoder.safetensors", "'small_decoder.safetensors' has no encoder"),
        ("encoder_file", "small_decoder.safetensors", "not a Mochi AsymmVAE encoder"),
        ("rank", 0, "there is nothing to train"),
        ("rank", 5000, "rank is 5000, but must be between 0 and 1024"),
        ("frames", 24, r"frames is 24, but Mochi makes 6k \+ 1"),
        ("width", 100, "width is 100, but must be a multiple of 16: the nearest is 96"),
        ("height", -16, "height is -16, but must be between 0 and"),
        ("gpus", "some", "gpus is 'some'"),
        ("format", "kohya", "format is 'kohya', but must be one of published, diffusers"),
        ("dtype", "float16", "dtype is 'float16', but must be one of"),
    ],
)
def test_refused_when_queued(small, clips, widget, value, message):
    folder = Path(folder_paths.get_input_directory())
    for name in ("empty", "bare"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "empty" / "notes.md").touch()
    (folder / "bare" / "clip.mp4").write_bytes((folder / clips / "clip0.mp4").read_bytes())
    (folder / "empty" / "notes.md").unlink() if widget == "data" and value == "empty" else None
    said = queued(**{"data": clips, widget: value})
    assert re.search(message, said.get("1", "")), said


def test_a_cluster_is_refused(train, pack, toy):
    settings = pack.module("mochi.parallel.settings").ParallelSettings("1", cluster="auto")
    with pytest.raises(ValueError, match=r"parallel asks for the machines of a cluster .* leave `cluster` empty"):
        train(parallel=settings)


def test_it_shows_numbers_a_curve_and_clips_as_they_come(train, toy, groups):
    lora, path, report, ui = train(name="styles/cross", steps=40, sample_every=10, hold_out=1)
    assert lora == "styles/cross.safetensors" and Path(path) == Path(folder_paths.models_dir, "loras", lora)
    assert lora in folder_paths.get_filename_list("loras") and Path(path).is_file()
    assert re.search(r"^styles/cross.safetensors: step 40 of 40, loss 0\.\d+ \(\d+ s\)", report)
    step = (
        r"step \d+ of 40 · loss \S+ \(mean of \d+\) · \S+ on held-out clips · lr 0.001 · 0.02 s a step · \d+ s left · "
    )
    assert any(re.search(step + "1.0 GB", text) for text in toy.texts), toy.texts
    assert any(text == "encoding clips: 3 of 3" for text in toy.texts)
    assert len(toy.results) >= 3, "a look is shown at once"
    assert [len(result["images"]) for result in toy.results[:2]] == [1, 3] and ui["animated"] == (False,)
    curve, *moving = (Path(folder_paths.get_temp_directory(), i["subfolder"], i["filename"]) for i in ui["images"])
    with Image.open(curve) as picture:
        assert picture.size == (480, 240) and len(picture.getcolors(10**6) or []) > 20
    for clip in moving:
        with Image.open(clip) as picture:
            assert (picture.format, picture.size, getattr(picture, "n_frames", 1)) == ("WEBP", (48, 32), 7)


def test_a_cancelled_run_goes_on(train, toy):
    toy.hear = lambda text: mm.interrupt_current_processing(bool(re.match("step ([5-9]|[1-9][0-9]) of 200 ", text)))
    with pytest.raises(mm.InterruptProcessingException):
        train(name="cancelled", steps=200)
    assert toy.texts[-1].endswith("what is done is kept: queued again, it goes on from the last checkpoint")
    assert not Path(folder_paths.models_dir, "loras", "cancelled.safetensors").exists()
    toy.hear, toy.texts[:] = lambda text: None, []
    _, path, report, _ui = train(name="cancelled", steps=20)
    steps = [int(found[1]) for text in toy.texts if (found := re.match(r"step (\d+) of 20", text))]
    assert steps[0] > 5 and Path(path).is_file() and "step 20 of 20" in report


def test_a_trainer_that_fails_says_why(pack, train, toy):
    pack.module("tests.train.toy_trainer").write_clips(Path(folder_paths.get_input_directory(), "poison"), "poison")
    with pytest.raises(Exception, match="was killed by SIGKILL, while training a LoRA"):
        train(data="poison", name="poison")


def test_it_runs_again_where_data_changed_or_the_file_is_gone(pack, clips):
    state = lambda: pack.nodes["MochiParallelTrainLoRA"].fingerprint_inputs(data=clips, name="known")  # noqa: E731
    before = state()
    path = Path(folder_paths.models_dir, "loras", "known.safetensors")
    path.touch()
    assert state() == before == state()
    Path(folder_paths.get_input_directory(), clips, "clip0.txt").write_text("a red circle moves right")
    changed = state()
    assert changed != before and state() == changed
    path.unlink()
    assert state() != changed


def test_it_trains_the_tiny_model_over_two_processes(call, train, shown):
    """Cancelled and queued again: the file is a LoRA, and all that was asked for is there."""
    shown.hear = lambda text: mm.interrupt_current_processing(bool(re.match("step [2-5] of 6 ", text)))
    widgets = {"name": "tiny", "gpus": "2", "width": 32, "height": 32, "frames": 7, "steps": 6}
    widgets |= {"sample_prompts": "a red circle", "keep_prompts": "a blue star"}
    with pytest.raises(mm.InterruptProcessingException):
        train(**widgets)
    shown.hear, shown.texts[:] = lambda text: None, []
    lora, _path, report, ui = train(**widgets)
    assert re.search(r"going on from step [2-5]\n", f"{report}\n") and "step 6 of 6" in report
    assert len(ui["images"]) == 2 and not [text for text in shown.texts if text.startswith("step 1 ")]
    run = Path(folder_paths.get_output_directory(), "lora_training", "tiny.training")
    assert {"checkpoint.safetensors", "clips.png", "log.jsonl", "step-000006-1.mp4"} <= {f.name for f in run.iterdir()}
    assert lora in folder_paths.get_filename_list("loras")
    assert not any("checkpoint" in file for file in folder_paths.get_filename_list("loras"))
    (model,) = call("MochiParallelLoadDiT", file=TINY, dtype="auto")
    (patched,) = call("MochiParallelLoadLoRA", model=model, file=lora, strength=1.0)
    assert len(patched.patches) == 6 * 4 - 1


def test_clips_are_kept_with_the_run_where_their_folder_is_read_only(pack, tmp_path, monkeypatch):
    cache_of, run = pack.module("nodes.host.train").cache_of, tmp_path / "run"
    (tmp_path / "clips").mkdir()
    assert cache_of(tmp_path / "clips", run) is None and cache_of(tmp_path / "clips" / "list.csv", run) is None
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path / "clips")
    assert cache_of(tmp_path / "clips", run) == cache_of(tmp_path / "clips" / "list.csv", run) == run / "cache"
