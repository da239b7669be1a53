"""The page itself, in gradio. It knows what is offered, and asks a Counter; it computes nothing."""

import base64
import html
import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

import gradio as gr

from .shown import Counter, Offer, Phase, Video, View

LOOK = 0.3
"""Seconds between two looks of an open page."""

NARROW = 90
"""Pixels of a field that stands beside others."""

ADVICE = "A prompt is best a long, literal description: what is seen, how it moves, the light and the camera."

STYLE = """
.mochi-shown { min-height: 3em }
.mochi-shown img { width: 100%; max-height: 60vh; object-fit: contain; border-radius: 8px }
.mochi-shown progress { width: 100% }
.mochi-shown [role=alert] { color: var(--error-text-color, #b91c1c) }
"""


def build(counter: Counter) -> gr.Blocks:
    """The page of what a Counter offers."""
    offer = counter.offer()
    with gr.Blocks(title="Mochi 1", analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        visitor, seen = gr.BrowserState(""), gr.State(-1)
        with gr.Row():
            with gr.Column(scale=2):
                gr.Markdown(f"## Mochi 1\n{html.escape(offer.model)}")
                form = Form(offer)
                with gr.Row():
                    # Once the page knows whose it is, it can be pressed.
                    ask = gr.Button("Make the video", variant="primary", interactive=False, elem_id="ask")
                    cancel = gr.Button("Cancel", variant="stop", interactive=False, elem_id="cancel")
            with gr.Column(scale=3):
                shown = gr.HTML(elem_classes="mochi-shown", elem_id="shown")
                video = gr.Video(
                    label="Video", interactive=False, autoplay=True, loop=True, height=480, elem_id="video"
                )
                with gr.Accordion("Settings of this video", open=False):
                    record = gr.Code(language="json", interactive=False, show_label=False, elem_id="record")
                gallery = gr.Gallery(
                    label="Made in this session",
                    columns=4,
                    height=200,
                    fit_columns=False,
                    allow_preview=False,
                    elem_id="gallery",
                )

        outputs = [seen, shown, video, record, gallery, ask, cancel]
        calls: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

        def enter(visitor: str) -> list[Any]:
            name = visitor or uuid.uuid4().hex
            view = counter.view(name, -1)
            return [name, -1, *form.filled(view.asked if view is not None else {})]

        def look(visitor: str, version: int) -> list[Any]:
            view = counter.view(visitor, version) if visitor else None
            return [gr.skip()] * len(outputs) if view is None else _updates(view, is_first=version < 0)

        def on_ask(visitor: str, *values: Any) -> Any:
            wrong = counter.ask(visitor, form.asked(values)) if visitor else ""
            return _complaint(wrong) if wrong else gr.skip()

        def on_select(visitor: str, event: gr.SelectData) -> list[Any]:
            view = counter.view(visitor, -1)
            return _shown_video(view.videos[event.index]) if view is not None else [gr.skip()] * 2

        page.load(enter, [visitor], [visitor, seen, *form.inputs], **calls)
        gr.Timer(LOOK).tick(look, [visitor, seen], outputs, **calls)
        ask.click(on_ask, [visitor, *form.inputs], [shown], **calls)
        form.prompt.submit(on_ask, [visitor, *form.inputs], [shown], **calls)
        cancel.click(counter.cancel, [visitor], **calls)
        gallery.select(on_select, [visitor], [video, record], **calls)
    return page


class Form:
    """What a person chooses.

    Attributes:
        inputs: the components, in the order in which their values come.
    """

    def __init__(self, offer: Offer):
        self._defaults, self._named = dict(offer.defaults), dict[str, Any]()
        add = self._named.__setitem__
        self.prompt = gr.Textbox(label="Prompt", lines=4, info=ADVICE, autofocus=True, elem_id="prompt")
        add("prompt", self.prompt)
        add("negative", gr.Textbox(label="Negative prompt", lines=1, elem_id="negative"))
        with gr.Row():
            for name, label in (("width", "Width"), ("height", "Height"), ("frames", "Frames")):
                add(name, self._number(name, label, precision=0))
        with gr.Row():
            add("steps", self._number("steps", "Steps", precision=0))
            add("cfg", self._number("cfg", "Guidance", step=0.5))
            # A text, since an empty field of numbers is 0 to gradio.
            add("seed", gr.Textbox(label="Seed", placeholder="random", max_lines=1, min_width=NARROW, elem_id="seed"))
        with gr.Accordion("More", open=False), gr.Row():
            add("fps", self._number("fps", "Frames a second"))
            add("threshold_noise", self._number("threshold_noise", "Threshold noise", step=0.005))
            add("stg", gr.Number(0, label="Skip-layer guidance", step=0.5, min_width=NARROW, elem_id="stg"))
        self._image: list[Any] = []
        if offer.takes_images:
            with gr.Accordion("Begin with a picture", open=False):
                gr.Markdown(html.escape(offer.about_images))
                # As it was given: another mode would drop transparency, and clip 16 bits to 8.
                picture = gr.Image(type="filepath", image_mode=None, label="Picture", elem_id="picture")
                with gr.Row():
                    frame = gr.Number(0, label="Frame", precision=0, info="-1 is the last one", elem_id="frame")
                    strength = gr.Slider(0, 1, 1, step=0.05, label="Strength", info="1: it stays as it is")
                self._image = [picture, frame, strength]
        self._loras: list[Any] = []
        if offer.loras:
            with gr.Accordion("LoRAs", open=False):
                self._loras = [gr.Slider(-2, 2, strength, step=0.05, label=name) for name, strength in offer.loras]
        self.inputs = [*self._named.values(), *self._image, *self._loras]

    def _number(self, name: str, label: str, **options: Any) -> gr.Number:
        return gr.Number(self._defaults[name], label=label, elem_id=name, min_width=NARROW, **options)

    def asked(self, values: tuple[Any, ...]) -> dict[str, Any]:
        """The settings that the values of the inputs are. An empty field is the model's own default."""
        named, rest = values[: len(self._named)], values[len(self._named) :]
        asked = {name: _plain(value) for name, value in zip(self._named, named)}
        asked["seed"] = _number(asked["seed"])
        if self._image and rest[0]:
            file, frame, strength = rest[:3]
            asked["images"] = [{"file": file, "frame": frame or 0, "strength": strength}]
        return {**asked, "loras": [float(value or 0) for value in rest[len(self._image) :]]}

    def filled(self, asked: Mapping[str, Any]) -> list[Any]:
        """The values of the inputs by what was asked for last; pictures are chosen anew."""
        if not asked:
            return [gr.skip()] * len(self.inputs)
        texts = {**asked, "seed": "" if asked["seed"] is None else str(asked["seed"])}
        named = [texts[name] for name in self._named]
        loras = asked.get("loras", [gr.skip()] * len(self._loras))
        return [*named, *([gr.skip()] * len(self._image)), *loras]


def _plain(value: Any) -> Any:
    """A number without a fraction as a whole one: in the browser there is one kind only."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _number(text: str) -> int | str | None:
    """The seed that a text is; None for none. Another text stays, for the complaint about it."""
    text = text.strip()
    return int(text) if re.fullmatch("[0-9]{1,20}", text) else text or None


def _updates(view: View, is_first: bool) -> list[Any]:
    """What of the page changes. The player and the gallery do only where there is another video."""
    news = [gr.skip()] * 3
    if view.videos and (is_first or view.phase is Phase.DONE):
        news = [*_shown_video(view.videos[0]), [video.path for video in view.videos]]
    buttons = gr.Button(interactive=not view.is_busy), gr.Button(interactive=view.is_busy)
    return [view.version, _as_html(view), *news, *buttons]


def _shown_video(video: Video) -> list[Any]:
    return [video.path, json.dumps(json.loads(video.record), indent=2, ensure_ascii=False)]


def _as_html(view: View) -> str:
    """How far it is: words, a bar and a picture."""
    if view.phase is None or view.phase is Phase.DONE:
        return ""
    if view.phase is Phase.FAILED:
        return _complaint(view.text)
    parts = [f'<p role="status">{html.escape(view.text)}</p>']
    if view.total:
        parts.append(f'<progress max="{view.total}" value="{view.done}"></progress>')
    if view.picture:
        data = base64.b64encode(view.picture).decode()
        parts.append(f'<img alt="how the video looks so far" src="data:image/jpeg;base64,{data}">')
    return "".join(parts)


def _complaint(text: str) -> str:
    return f'<p role="alert">{html.escape(text)}</p>'
