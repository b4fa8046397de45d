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
from collections.abc import Callable

import torch
from PIL import Image
from transformers import (
    DynamicCache,
    Gemma2Config,
    GemmaConfig,
    LogitsProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from pgvision import Captioner, Detector
from pgvision.runtime import (
    CheckpointCard,
    Engine,
    Picture,
    Request,
    check_language,
    check_leaks,
)
from pgvision.runtime.head import OutputHead
from pgvision.runtime.language import LanguageModel
from pgvision.tokens import AnswerForm
from recipes.architecture import build_tokenizer
from recipes.scenes import CLASSES, render_scene

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
    config._attn_implementation = "sdpa"
    # Gemma 2 caps its attention logits, which fused attention cannot do.
    config.text_config._attn_implementation = "eager" if family == 2 else "sdpa"
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


def middle(run: Callable[[], object], times: int = 3) -> float:
    """Seconds that a call takes, the middle of a few."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[times // 2]


@torch.inference_mode()
def measure(engine: Engine) -> None:
    """Time each part of an answer about one picture, and transformers' step beside ours."""
    model, words = engine.model, engine.vocabulary
    language, head = LanguageModel(model), OutputHead(model)
    pixels = torch.rand(1, 3, RESOLUTION, RESOLUTION).to(model.dtype) * 2 - 1
    features = model.get_image_features(pixels).pooler_output
    prompt = torch.tensor([engine.input_ids("detect helmet")])
    length = prompt.shape[1]
    cache = language.allocate(1, length + 8)
    embedded = language.embed_prompt(prompt, features)

    def step(count: int) -> torch.Tensor:
        ids = torch.full((1, count), words.first_loc)
        return language.run(language.embed(ids), cache, starts=[length])

    vision = middle(lambda: model.get_image_features(pixels))
    prefill = middle(lambda: language.run(embedded, cache, starts=[0], prefix=[length]))
    hidden = step(1)[:, 0]
    say(f"  vision          {vision:8.3f} s a picture")
    say(f"  prefill         {prefill:8.3f} s ({length} tokens)")
    for count in (1, 4, 8):
        say(f"  pass of {count}       {middle(lambda n=count: step(n)):8.3f} s")
    bins = slice(words.first_loc, words.first_loc + 1024)
    say(f"  head, all rows  {middle(lambda: head.logits(hidden)):8.3f} s (float32 sums)")
    say(f"  head, <loc>     {middle(lambda: head.logits(hidden, bins)):8.3f} s")
    say(f"  lm_head         {middle(lambda: model.lm_head(hidden)):8.3f} s (transformers')")
    theirs = DynamicCache(config=model.config.get_text_config())
    model.model.language_model(inputs_embeds=embedded, past_key_values=theirs, use_cache=True)
    ids, place = torch.tensor([[words.first_loc]]), torch.tensor([[length + 1]])
    seconds = middle(
        lambda: model.model(
            input_ids=ids, position_ids=place, past_key_values=theirs, use_cache=True
        )
    )
    say(f"  pass of 1       {seconds:8.3f} s (transformers')")
    say(f"  language model: {check_language(model)}")


class Told(LogitsProcessor):
    """Lets ``generate`` write given tokens, after it has computed what it always computes."""

    def __init__(self, tokens: list[int], prompt: int) -> None:
        self.tokens, self.prompt = tokens, prompt

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:] = -torch.inf
        scores[:, self.tokens[input_ids.shape[1] - self.prompt]] = 0.0
        return scores


def answers(engine: Engine, times: int) -> None:
    """Time an answer of five objects after its prompt's pass, and ``generate`` of its tokens."""
    image = Picture(render_scene(60_000_002).image)
    inputs = engine.processor(
        images=[Image.fromarray(image.bgr[..., ::-1].copy())],
        text=["<image>detect helmet"],
        return_tensors="pt",
    )
    inputs.pop("labels", None)
    inputs["pixel_values"] = inputs["pixel_values"].to(engine.model.dtype)
    prompt = inputs["input_ids"].shape[1]
    for task in ("detect", "segment"):
        form = AnswerForm(task, labels=("helmet",), max_objects=5, past_end=5)
        request = Request(picture=image, prefix="detect helmet", form=form, max_new_tokens=160)
        ours, theirs, passes = [], [], 0
        for _ in range(times):
            ((_, answer),) = engine.generate([request])
            ours.append(answer.timings["answer"])
            tokens, passes = answer.token_ids.tolist(), answer.passes

            def generate(count: int, tokens: list[int] = tokens) -> float:
                start = time.perf_counter()
                with torch.inference_mode():
                    engine.model.generate(
                        **inputs,
                        max_new_tokens=count,
                        do_sample=False,
                        logits_processor=[Told(tokens, prompt)],
                    )
                return time.perf_counter() - start

            theirs.append(generate(len(tokens)) - generate(1))
        mine, other = sorted(ours)[times // 2], sorted(theirs)[times // 2]
        say(
            f"  {task}: {len(tokens)} tokens in {passes} passes, decode {mine:.2f} s against "
            f"{other:.2f} s of generate: {mine / other:.2f} of its time"
        )


def bandwidth(engine: Engine) -> None:
    """Hold a decode step to what reading its weights costs."""
    language = engine.model.model.language_model
    size = sum(one.numel() * one.element_size() for one in language.layers.parameters())
    block = torch.ones(2**28, dtype=torch.float32)  # 1 GiB, far beyond any cache
    read = middle(lambda: block.sum(), 5)
    rate = block.numel() * 4 / read
    lean, slots = LanguageModel(engine.model), 280
    cache = lean.allocate(1, slots)
    ids = torch.full((1, 1), engine.vocabulary.first_loc)
    with torch.inference_mode():
        step = middle(lambda: lean.run(lean.embed(ids), cache, starts=[264]), 7)
    say(
        f"  step {step * 1e3:.0f} ms; its {size / 1e9:.2f} GB at {rate / 1e9:.1f} GB/s take "
        f"{size / rate * 1e3:.0f} ms: {step * rate / size:.2f} of the bound"
    )


def through_the_door(engine: Engine) -> None:
    """Ask the public adapters, as users do."""
    start = time.perf_counter()
    image = render_scene(60_000_001).image
    boxes = Detector("helmet", generator=engine, kind="pt")(image)
    text = Captioner(generator=engine, kind="pt")(image)
    say(
        f"  Detector + Captioner, {engine.max_new_tokens} tokens each at most: "
        f"{time.perf_counter() - start:.1f} s; {len(boxes)} objects, {len(boxes.rejects)} "
        f"rejects, truncated {text.truncated}"
    )


def main() -> None:
    """Build, check the attention mask, time; one family a run keeps peak memory apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", type=int, choices=(1, 2), default=1, help="PaliGemma 1 or 2")
    parser.add_argument("--layers", type=int, help="of both towers; default: the true numbers")
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--skip-leaks", action="store_true")
    parser.add_argument("--answers", type=int, default=0, help="only time so many whole answers")
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
    about = "random weights, true shapes"
    card = CheckpointCard(
        name, name, "pt", "google", True, None, about, max_new_tokens=options.tokens
    )
    engine = Engine(model, processor, card)
    size = sum(parameter.numel() for parameter in model.parameters())
    say(f"{name}: {size / 1e9:.3f} G parameters, built in {time.perf_counter() - start:.1f} s")
    if options.answers:
        bandwidth(engine)
        answers(engine, options.answers)
        return
    measure(engine)
    through_the_door(engine)
    if not options.skip_leaks:
        # bfloat16 rounds, so the leak is exact zero or it is a leak.
        say(f"  attention mask: {check_leaks(model)}")
    say(f"  peak memory {peak_gib():.1f} GiB")


if __name__ == "__main__":
    main()
