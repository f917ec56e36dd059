"""The folder View: settings for pictures of the displayed scene."""

from __future__ import annotations

import typing
from dataclasses import replace

from scenetok_ns.data.square_pictures import Aspect
from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.viewer.elements import Button, Dropdown, Folder, Number, Slider
from scenetok_ns.viewer.part import Part
from scenetok_ns.viewer.renderer import ViewSettings, most_previous_views
from scenetok_ns.viewer.session import Session

MOST_STEPS, MOST_PREVIEW_STEPS = 50, 10
MOST_GUIDANCE = 8.0
STILL, STEADY, OTHER = "still: sharp", "steady: for moves", "as the slider says"
STEADY_SHARE = 0.3
"""Steps of "steady" relative to "still". Fewer steps give softer pictures that agree better with each other."""
BYTES_PER_NUMBER = 2
"""Bytes per number in tokens that `scenetok encode --dtype bfloat16` writes."""


class ViewPart(Part):
    """See the module."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        settings, change = session.view.settings, self.does(self._change, loud=False)
        preset, sampler, preview = session.renderer.preset, settings.rest, settings.moving.steps
        room = most_previous_views(sampler, latent_space(preset.target_autoencoder).layout.latents_per_chunk)
        self._usual, most_steps = sampler.steps, max(MOST_STEPS, sampler.steps)
        self.quality = Dropdown(
            *("Quality at rest", STILL, [STILL, STEADY, OTHER]),
            cb_hook=self.does(self._choose_quality, loud=False),
            hint="still: all steps, sharpest. steady: fewer steps, softer, neighbouring pictures agree better",
        )
        self.steps = Slider("Steps at rest", sampler.steps, 1, most_steps, 1, cb_hook=change)
        self.preview = Slider("Steps while moving", preview, 1, max(MOST_PREVIEW_STEPS, preview), 1, cb_hook=change)
        self.guidance = Slider(
            *("Guidance", float(sampler.guidance), 1.0, max(MOST_GUIDANCE, sampler.guidance), 0.1),
            disabled=not preset.denoiser.null_token,
            cb_hook=change,
            hint="1 is off",
        )
        self.seed = Number("Seed", settings.seed, cb_hook=change)
        self._other_seed = settings.seed + 1
        self.previous = Slider(
            *("Previous views", settings.previous_views, 0, max(room, 1), 1),
            disabled=room == 0,
            cb_hook=change,
            hint="Number of earlier views that a new one continues from; 0: render each alone",
        )
        self.wide = Dropdown(
            "Beside the square", settings.wide, ["border", "fill"], cb_hook=change, hint="fill: the model's guess"
        )
        count = preset.compressor.num_tokens
        self.count = Slider(
            "Tokens used", count, 1, count, 1, cb_hook=change, hint="The rest is left out: what compression costs"
        )
        self.folder = Folder(
            "View",
            [
                *([self.quality] if self._steady < self._usual else []),
                *([self.steps, self.preview] if self._usual > 1 else []),  # a model made for one step gains nothing
                *([self.guidance] if preset.denoiser.null_token else []),
                self.seed,
                Button(
                    "New sample", self.does(self._new_sample, loud=False), hint="The next seed (key g)", is_main=True
                ),
                Button("Other seed (A/B)", self.does(self._swap), hint="Back and forth between two seeds (key b)"),
                *([self.previous] if room else []),
                *(self.wide, self.count),
            ],
        )

    def settings(self) -> ViewSettings:
        """Read the settings from the elements."""
        everything = self.session.renderer.preset.compressor.num_tokens
        sampler = self.session.renderer.settings.sampler
        rest = replace(sampler, steps=self.steps.value, guidance=self.guidance.value)
        return ViewSettings(
            rest=rest,
            moving=replace(rest, steps=min(self.preview.value, rest.steps)),
            seed=int(self.seed.value),
            previous_views=self.previous.value,
            num_tokens=None if self.count.value == everything else self.count.value,
            wide=typing.cast(Aspect, self.wide.value),
        )

    def show_settings(self) -> None:
        """Set the elements to the view's settings, for example after an undo. This alone renders nothing."""
        now = self.session.view.settings
        everything = self.session.renderer.preset.compressor.num_tokens
        for element, value in (
            *((self.steps, now.rest.steps), (self.guidance, now.rest.guidance), (self.seed, now.seed)),
            *((self.preview, now.moving.steps), (self.previous, now.previous_views), (self.wide, now.wide)),
            (self.count, everything if now.num_tokens is None else now.num_tokens),
        ):
            if element.value != value:
                element.show(value)
        self._show_quality()

    def _change(self) -> str | None:
        new, old = self.settings(), self.session.view.settings
        if new == old:
            return None
        self.session.remember()
        self.session.view.settings = new
        self._show_quality()
        return self._size() if new.num_tokens != old.num_tokens else None

    def _show_quality(self) -> None:
        name = {self._usual: STILL, self._steady: STEADY}.get(self.steps.value, OTHER)
        if self.quality.value != name:
            self.quality.show(name)

    def _size(self) -> str:
        compressor, used = self.session.renderer.preset.compressor, self.count.value
        size = used * compressor.token_dim * BYTES_PER_NUMBER / 1000
        return f"{used} of {compressor.num_tokens} tokens: {size:.1f} kB in bfloat16"

    @property
    def _steady(self) -> int:
        return max(round(self._usual * STEADY_SHARE), 2)

    def _choose_quality(self) -> None:
        if self.quality.value != OTHER:
            self.steps.show(self._usual if self.quality.value == STILL else self._steady)
            self._change()

    def _new_sample(self) -> None:
        self._other_seed = int(self.seed.value)
        self.seed.show(self._other_seed + 1)
        self._change()

    def _swap(self) -> str:
        now = int(self.seed.value)
        self.seed.show(self._other_seed)
        self._other_seed = now
        self._change()
        return f"seed {int(self.seed.value)}; press again for seed {now}"
