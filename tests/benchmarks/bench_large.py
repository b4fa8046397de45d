"""PaliGemma 1 and 2 at their true 3B shapes, random bfloat16 weights: the whole path, timed.

Nothing is downloaded: the tokenizer is the carried checkpoint's, whose ids all lie below the
true vocabulary size; weights are drawn in place, so that memory holds one copy.
"""

import argparse
import os
import platform
import resource
import sys
import time

import torch
from transformers import (
    Gemma2Config,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from pgvision import Captioner, Detector
from pgvision.runtime import CheckpointCard, Engine, GenerateOptions, Request, check_leaks
from pgvision.scenes import CLASSES, render_scene
from pgvision.training.architecture import build_tokenizer

RESOLUTION = 224
VOCABULARY = 257_216
IDS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def text_config(family: int, layers: int | None) -> GemmaConfig | Gemma2Config:
    """Gemma 2B (PaliGemma 1) or Gemma 2 2B (PaliGemma 2)."""
    if family == 1:
        return GemmaConfig(
            vocab_size=VOCABULARY,
            hidden_size=2048,
            intermediate_size=16_384,
            num_hidden_layers=layers or 18,
            num_attention_heads=8,
            num_key_value_heads=1,
            head_dim=256,
            **IDS,
        )
    return Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=2304,
        intermediate_size=9216,
        num_hidden_layers=layers or 26,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
        query_pre_attn_scalar=256,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
        sliding_window=4096,
        **IDS,
    )


def build_processor() -> PaliGemmaProcessor:
    """The processor of a 224 checkpoint, with the small tokenizer."""
    images = SiglipImageProcessorPil(
        size={"height": RESOLUTION, "width": RESOLUTION}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    images.image_seq_length = (RESOLUTION // 14) ** 2
    words = ["detect", "caption", "en", *(word for name in CLASSES for word in name.split())]
    return PaliGemmaProcessor(image_processor=images, tokenizer=build_tokenizer(words))


def build_model(
    family: int, image_token: int, layers: int | None
) -> PaliGemmaForConditionalGeneration:
    """Shapes on the meta device, then memory, then weights drawn in place."""
    vision = SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=layers or 27,
        num_attention_heads=16,
        image_size=RESOLUTION,
        patch_size=14,
        vision_use_head=False,
    )
    text = text_config(family, layers)
    config = PaliGemmaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        projection_dim=text.hidden_size,
        **IDS,
    )
    # Gemma 2 caps its attention logits, which fused attention cannot do.
    config._attn_implementation = "eager" if family == 2 else "sdpa"
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            model = PaliGemmaForConditionalGeneration(config)
        model = model.to_empty(device="cpu")
    finally:
        torch.set_default_dtype(before)
    model.tie_weights()
    fill(model)
    return model.eval()


def fill(model: PaliGemmaForConditionalGeneration) -> None:
    """Draw weights of the size that trained ones have; compute the tables that are no weights."""
    with torch.no_grad():
        for parameter in model.parameters():
            reach = 0.02 if parameter.ndim > 1 else 0.0
            parameter.uniform_(-reach, reach)
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.fill_(1.0)  # Gemma's own norms add the one themselves
            if "rotary_emb" in name:
                fresh = type(module)(module.config)  # computes its table
                for key, table in fresh.named_buffers():
                    getattr(module, key).copy_(table)
            if hasattr(module, "position_ids") and isinstance(module.position_ids, torch.Tensor):
                module.position_ids.copy_(torch.arange(module.position_ids.numel())[None])
            scale = getattr(module, "embed_scale", None)
            if isinstance(scale, torch.Tensor):
                scale.fill_(float(module.scalar_embed_scale))


def peak_gib() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(engine: Engine, num_tokens: int) -> None:
    """Time vision, prefill and each further token on one picture."""
    image = render_scene(60_000_000).image
    vision, one, many = [], [], []
    for shade in range(3):
        shown = image.copy()
        shown[0, 0] = shade  # another picture, so that it is encoded anew
        request = Request(shown, "detect helmet")
        (first,) = engine.generate([request], GenerateOptions(1))
        (rest,) = engine.generate([request], GenerateOptions(num_tokens + 1))
        vision.append(first.timings["vision"])
        # A limit of one token runs the prefill and one step.
        one.append((first.timings["language"], len(first.token_ids)))
        many.append((rest.timings["language"], len(rest.token_ids)))
    steps = [
        (long - short) / max(1, count - number)
        for (short, number), (long, count) in zip(one, many, strict=True)
    ]
    step = sorted(steps)[1]
    prefill = sorted(seconds for seconds, _ in one)[1] - step
    say(f"  vision   {sorted(vision)[1]:8.2f} s a picture (with resizing)")
    say(f"  prefill  {prefill:8.2f} s ({engine.num_image_tokens} image tokens)")
    say(f"  token    {step:8.3f} s each ({many[1][1]} tokens)")


def through_the_door(engine: Engine, num_tokens: int) -> None:
    """Ask the public adapters, as users do."""
    start = time.perf_counter()
    image = render_scene(60_000_001).image

    class Short:
        """The engine with short answers: random weights never end."""

        def generate(self, requests, options=None):  # noqa: ANN001, ANN202
            return engine.generate(requests, GenerateOptions(num_tokens))

    boxes = Detector("helmet", generator=Short(), kind="pt")(image)
    text = Captioner(generator=Short(), kind="pt")(image)
    say(
        f"  Detector + Captioner, {num_tokens} tokens each: {time.perf_counter() - start:.1f} s; "
        f"{len(boxes)} objects, {len(boxes.rejects)} rejects, truncated {text.truncated}"
    )


def main() -> None:
    """Build, check the attention mask, time; one family a run keeps peak memory apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", type=int, choices=(1, 2), default=1, help="PaliGemma 1 or 2")
    parser.add_argument("--layers", type=int, help="of both towers; default: the true numbers")
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--skip-leaks", action="store_true")
    options = parser.parse_args()
    say(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads; load {os.getloadavg()[0]:.1f}"
    )
    torch.manual_seed(0)
    start = time.perf_counter()
    processor = build_processor()
    image_token = processor.tokenizer.convert_tokens_to_ids("<image>")
    model = build_model(options.family, image_token, options.layers)
    name = f"paligemma{options.family}-3b-224"
    card = CheckpointCard(name, name, "pt", "google", True, None, "random weights, true shapes")
    engine = Engine(model, processor, card)
    size = sum(parameter.numel() for parameter in model.parameters())
    say(f"{name}: {size / 1e9:.3f} G parameters, built in {time.perf_counter() - start:.1f} s")
    measure(engine, options.tokens)
    through_the_door(engine, options.tokens)
    if not options.skip_leaks:
        # bfloat16 rounds, so the leak is exact zero or it is a leak.
        say(f"  attention mask: {check_leaks(model)}")
    say(f"  peak memory {peak_gib():.1f} GiB")


if __name__ == "__main__":
    main()
