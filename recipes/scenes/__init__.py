"""The rendered world: construction sites drawn from a seed, with everything known about them."""

from recipes.scenes.language import caption_counts
from recipes.scenes.render import render_scene
from recipes.scenes.scene import Question, Scene, SceneObject
from recipes.scenes.video import render_video, write_scene_video
from recipes.scenes.vocabulary import CLASSES, SIGN_WORDS

__all__ = [
    "CLASSES",
    "SIGN_WORDS",
    "Question",
    "Scene",
    "SceneObject",
    "caption_counts",
    "render_scene",
    "render_video",
    "write_scene_video",
]
