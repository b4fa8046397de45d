"""The rendered world: construction sites drawn from a seed, with everything known about them."""

from pgvision.scenes.language import caption_counts
from pgvision.scenes.render import render_scene
from pgvision.scenes.scene import Question, Scene, SceneObject
from pgvision.scenes.video import render_video, write_scene_video
from pgvision.scenes.vocabulary import CLASSES, SIGN_WORDS

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
