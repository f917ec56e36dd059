"""The panel in Nerfstudio's viewer: scene, quality, tokens and, with a scene generator, generation."""

from __future__ import annotations

import contextlib
import logging
import typing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from nerfstudio.viewer.viewer_elements import ViewerControl, ViewerElement
from torch import nn

from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.square_pictures import Aspect
from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.viewer.cameras import draw_frustums, place_camera
from scenetok_ns.viewer.elements import Button, Dropdown, Folder, Information, Number, Slider, Text
from scenetok_ns.viewer.generation import (
    ANCHORS,
    OWN_VIEWS,
    Generation,
    GenerationRequest,
    conditions_of,
)
from scenetok_ns.viewer.guards import guard_pages, guard_updates
from scenetok_ns.viewer.renderer import ViewerRenderer, ViewSettings, most_previous_views

if TYPE_CHECKING:
    import viser
    from nerfstudio.viewer.viewer import Viewer

logger = logging.getLogger(__name__)

LISTED_SCENES = 200
"""In the drop-down list; others are shown by name."""
MOST_STEPS, MOST_PREVIEW_STEPS, MOST_SCENE_STEPS = 50, 10, 200
MOST_GUIDANCE = 8.0
CONTEXT_FACTOR = 2
"""Context views that can be chosen, over the preset's number."""


class _Connection(ViewerControl):
    """Tells that a viewer has been opened, which it does by setting up its controls."""

    def __init__(self, opened: Callable[[Viewer], None]) -> None:
        self._opened = opened

    def _setup(self, viewer: Viewer) -> None:
        super()._setup(viewer)
        self._opened(viewer)


class ViewerPanel(nn.Module):
    """Elements for the viewer, which finds them by itself, and what they do. Without a viewer nothing happens."""

    _module: nn.Module

    def __init__(self, view: ViewerRenderer, module: nn.Module) -> None:
        """
        Args:
            view: Pictures of the viewer; the panel chooses their scene and settings.
            module: Nerfstudio's model, which is in eval mode while a scene is generated.
        """
        super().__init__()
        guard_pages()
        guard_updates()
        # Not as an attribute of a module: it would become part of this one.
        object.__setattr__(self, "_module", module)
        self._view, self._shown, self._renderer = view, view.scene, view.renderer
        self._viewer: Viewer | None = None
        self._generation: Generation | None = None
        self.control = _Connection(self._opened)
        self._status = Information("Status")
        self._build_scene()
        self._build_view()
        self._build_tokens()
        if self._renderer.generates:
            self._build_generation()
        for folder in self.children():
            for element in vars(folder).values():
                if isinstance(element, ViewerElement) and hasattr(element, "interrupt"):
                    element.interrupt = view.interrupt  # type: ignore[attr-defined]

    # --- Elements ---

    def _build_scene(self) -> None:
        names = self._shown.names
        listed = names[:LISTED_SCENES]
        if names[self._shown.number] not in listed:
            listed = [*listed, names[self._shown.number]]
        self._scene = Dropdown("Scene", names[self._shown.number], listed, cb_hook=self._hook(self._show))
        self._name = Text("Scene by name", "", hint="Any scene of the split; press Show")
        self._show_named = Button("Show scene by name", self._hook(self._show_by_name))
        elements: list[ViewerElement] = [self._scene, self._name, self._show_named]
        if not self._renderer.generates:
            usual = len(self._shown.given)
            most = max(
                usual, min(CONTEXT_FACTOR * self._renderer.preset.data.views.num_context, self._shown.num_frames)
            )
            self._context = Slider("Context views", usual, 1, most, 1, cb_hook=self._hook(self._spread_context))
            self._which = Text("Which ones", self._given(), hint="Numbers of the scene's frames; press Encode")
            encode = Button("Encode these views", self._hook(self._choose_context))
            elements += [self._context, self._which, encode]
        self.Scene = Folder([*elements, self._status])

    def _build_view(self) -> None:
        settings, change = self._view.settings, self._hook(self._change_view)
        sampler, preview = settings.rest, settings.moving.steps
        layout = latent_space(self._renderer.preset.target_autoencoder).layout
        room = most_previous_views(sampler, layout.latents_per_chunk)
        most_steps = max(MOST_STEPS, sampler.steps)
        self._steps = Slider("Steps at rest", sampler.steps, 1, most_steps, 1, cb_hook=change)
        self._preview = Slider("Steps while moving", preview, 1, max(MOST_PREVIEW_STEPS, preview), 1, cb_hook=change)
        self._guidance = Slider(
            *("Guidance", float(sampler.guidance), 1.0, max(MOST_GUIDANCE, sampler.guidance), 0.1),
            disabled=not self._renderer.preset.denoiser.null_token,
            cb_hook=change,
            hint="1 is off",
        )
        self._seed = Number("Seed", settings.seed, cb_hook=change)
        self._previous = Slider(
            *("Previous views", settings.previous_views, 0, max(room, 1), 1),
            disabled=room == 0,
            cb_hook=change,
            hint="Views shown before that a new one goes on from; 0: each is made alone",
        )
        self._wide = Dropdown(
            "Beside the square", settings.wide, ["border", "fill"], cb_hook=change, hint="fill: the model's guess"
        )
        new_sample = Button("New sample", self._hook(self._new_sample))
        elements = [self._steps, self._preview, self._guidance, self._seed, new_sample, self._previous, self._wide]
        self.View = Folder(elements)

    def _build_tokens(self) -> None:
        count = self._renderer.preset.compressor.num_tokens
        hint = "The rest is left out: what compression costs"
        self._count = Slider("Tokens used", count, 1, count, 1, cb_hook=self._hook(self._change_view), hint=hint)
        self._file = Text("File", "scene.safetensors", hint="On the machine that runs the viewer")
        save, load = Button("Save tokens", self._hook(self._save)), Button("Load tokens", self._hook(self._load))
        self._splat_file = Text("Splat", "scene.ply", hint="Of this scene, by export-splat; drawn while moving")
        show, hide = Button("Use splat", self._hook(self._use_splat)), Button("No splat", self._hook(self._no_splat))
        self.Tokens = Folder([self._count, self._file, save, load, self._splat_file, show, hide])

    def _build_generation(self) -> None:
        settings = self._renderer.settings
        sampler = settings.scene_sampler
        assert sampler is not None
        most = self._renderer.preset.data.views.max_condition_views
        given = len(self._shown.given)
        self._num_condition = Slider("Photographs of the scene", min(given, most), 1, max(most, 2), 1)
        self._photograph = Text("Photograph", "", hint="An image file in the place of the scene's photographs")
        self._anchors = Dropdown("Where to", OWN_VIEWS, ANCHORS, hint="camera path: exported last in the Render tab")
        self._scene_steps = Slider("Steps", sampler.steps, 1, max(MOST_SCENE_STEPS, sampler.steps), 1)
        most_guidance = max(MOST_GUIDANCE, sampler.guidance)
        self._scene_guidance = Slider("Guidance", float(sampler.guidance), 1.0, most_guidance, 0.1, hint="1 is off")
        self._scene_seed = Number("Seed", settings.scene_seed)
        self._progress = Information("Progress")
        self.Generation = Folder(
            [
                *(self._num_condition, self._photograph, self._anchors),
                *(self._scene_steps, self._scene_guidance, self._scene_seed),
                *(Button("Generate", self._hook(self._generate)), Button("Stop", self._hook(self._stop))),
                self._progress,
            ]
        )

    def _hook(self, act: Callable[[], str | None]) -> Callable[[Any], None]:
        """A hook that never raises: what went wrong is said in the panel. What `act` returns is said, too."""

        def hook(element: Any) -> None:
            try:
                said = act()
            except Exception as error:
                logger.warning("the viewer's panel: %s", error, exc_info=not isinstance(error, (ValueError, OSError)))
                said = str(error) or type(error).__name__
            if said is not None:
                self._status.value = said

        return hook

    # --- The viewer ---

    def _opened(self, viewer: Viewer) -> None:
        self._viewer = viewer
        # Nothing is nearer than our far plane, composed or not: without, the viewer need not make and send its depth.
        viewer.control_panel._layer_depth.value = False
        viewer.viser_server.on_client_connect(self._place)
        if self._shown.generates and viewer.trainer is None:
            self._hook(self._generate)(None)

    def _redraw(self) -> None:
        """Frustums and cameras of the scene that is shown now."""
        self._redraw_frustums()
        if self._viewer is not None:
            for client in self._viewer.viser_server.get_clients().values():
                self._place(client)

    def _place(self, client: viser.ClientHandle) -> None:
        assert self._viewer is not None
        place_camera(client, self._shown.pictures().cameras, self._viewer.config.camera_frustum_scale)

    def _ask_again(self) -> None:
        """As the viewer's `_trigger_rerender`, which fails when a browser comes or goes meanwhile."""
        from nerfstudio.viewer.render_state_machine import RenderAction

        self._view.interrupt()
        if self._viewer is None or not self._viewer.ready:
            return
        for identity, client in self._viewer.viser_server.get_clients().items():
            if (thread := self._viewer.render_statemachines.get(identity)) is not None:
                thread.action(RenderAction("move", self._viewer.get_camera_state(client)))

    # --- What the elements do ---

    def _show(self) -> str:
        return self._show_scene(lambda: self._shown.show(self._shown.names.index(self._scene.value)))

    def _show_by_name(self) -> str:
        return self._show_scene(lambda: self._shown.show_named(self._name.value.strip()))

    def _show_scene(self, show: Callable[[], None]) -> str:
        show()
        self._say_given()
        self._redraw()
        if self._shown.generates:
            self._generate()
        return f"scene {self._shown.names[self._shown.number]}"

    def _given(self) -> str:
        return ", ".join(map(str, self._shown.given))

    def _say_given(self) -> None:
        if not self._renderer.generates:
            self._which.value = self._given()

    def _spread_context(self) -> str:
        self._shown.give_spread(self._context.value)
        self._say_given()
        self._redraw_frustums()
        return f"{len(self._shown.given)} context views"

    def _choose_context(self) -> str:
        words = self._which.value.replace(",", " ").split()
        if not all(word.isdecimal() for word in words):
            raise DataError(f"expected numbers of frames like 0, 10, 20, got {self._which.value!r}")
        self._shown.give(torch.tensor([int(word) for word in words], dtype=torch.int64))
        self._redraw_frustums()
        return f"{len(words)} context views"

    def _redraw_frustums(self) -> None:
        if self._viewer is not None:
            draw_frustums(self._viewer, self._shown.pictures())

    def _settings(self) -> ViewSettings:
        everything = self._renderer.preset.compressor.num_tokens
        rest = replace(self._renderer.settings.sampler, steps=self._steps.value, guidance=self._guidance.value)
        return ViewSettings(
            rest=rest,
            moving=replace(rest, steps=min(self._preview.value, rest.steps)),
            seed=int(self._seed.value),
            previous_views=self._previous.value,
            num_tokens=None if self._count.value == everything else self._count.value,
            wide=typing.cast(Aspect, self._wide.value),
        )

    def _change_view(self) -> None:
        self._view.settings = self._settings()

    def _new_sample(self) -> None:
        self._seed.value = int(self._seed.value) + 1
        self._change_view()

    def _save(self) -> str:
        path = Path(self._file.value).expanduser().absolute()
        tokens = self._shown.save(path, self._settings().num_tokens)
        return f"{path}: {len(tokens.mean)} tokens, {path.stat().st_size:,} bytes"

    def _load(self) -> str:
        path = Path(self._file.value).expanduser().absolute()
        self._shown.load(path)
        self._redraw()
        return f"shown: {path}"

    def _use_splat(self) -> str:
        path = Path(self._splat_file.value).expanduser().absolute()
        count = self._view.splat.load(path, self._renderer.device, self._shown.current().version)
        return f"while moving: {path}, {count:,} Gaussians"

    def _no_splat(self) -> str:
        self._view.splat.clear()
        return "while moving: previews of the model"

    def _generate(self) -> str:
        """Start generating with what the panel says. Called with the viewer's lock."""
        viewer, module, settings = self._viewer, self._module, self._renderer.settings
        if viewer is None or settings.scene_sampler is None:
            raise DataError("generating needs an open viewer and a scene generator")
        self._stop()
        photograph = self._photograph.value.strip()
        request = GenerationRequest(
            scene=self._shown.number,
            num_condition=self._num_condition.value,
            photograph=Path(photograph).expanduser() if photograph else None,
            anchors=self._anchors.value,
            seed=int(self._scene_seed.value),
            sampler=replace(settings.scene_sampler, steps=self._scene_steps.value, guidance=self._scene_guidance.value),
        )
        conditions, scene, given = conditions_of(request, self._renderer, viewer.datapath / "camera_paths")
        views = self._shown.views_of(scene, torch.tensor(given))

        chosen = replace(settings, scene_seed=request.seed, scene_sampler=request.sampler)
        renderer = replace(self._renderer, settings=chosen)

        def run(on_step: Callable[[int, int], None]) -> SceneTokens:
            was_training = module.training
            module.eval()
            try:
                return renderer.generate(conditions, scene.key, on_step)
            finally:
                module.train(was_training)

        def done(tokens: SceneTokens) -> None:
            self._shown.take(tokens, views)
            self._redraw()

        trains = viewer.trainer is not None and viewer.trainer.training_state == "training"
        lock = viewer.train_lock or contextlib.nullcontext()
        self._generation = Generation(run, lock, share=not trains, report=self._report, done=done)
        self._generation.start()
        return f"generating {scene.key}"

    def _report(self, said: str, ended: bool) -> None:
        self._shown.note = said
        self._progress.value = said
        if ended or not self._shown.ready:
            self._ask_again()

    def _stop(self) -> None:
        if self._generation is not None:
            self._generation.abort()
            self._generation = None
