"""The part of the zoo that optimum-onnx writes, merged decoders with two branches among it.

    python -m models.zoo.optimum_export DIR [--arch bert,bart]

optimum-onnx needs transformers 4, the rest of the zoo transformers 5: this runs in an environment of its own with
`torch==2.13.0 transformers==4.57.6 optimum==2.1.0 optimum-onnx==0.1.0 onnx onnxruntime onnxscript`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.zoo.blocks import count_blocks
from models.zoo.case import seeded
from models.zoo.export import first_line, library_versions, run_check
from models.zoo.families.audio import SPEECH, WHISPER
from models.zoo.families.decoders import GROUPED, SMALL
from models.zoo.families.sequence_to_sequence import BART, SPECIAL, T5
from models.zoo.families.vision import SWIN, VISION
from models.zoo.record import Record, append_record
from models.zoo.samples import Sample, save_samples

if TYPE_CHECKING:
    import onnx
    import torch

_EXPORTER = "optimum"
_EXTENTS = ((2, 7, 5), (3, 4, 6))  # batch, new tokens, past
_SOURCE = 9


@dataclass(frozen=True, slots=True)
class Task:
    """A model class, its configuration, and what optimum calls its use."""

    model: str
    config: str
    options: Mapping[str, Any]
    task: str


_GPT2 = {"vocab_size": 96, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
_DISTILBERT = {"vocab_size": 96, "dim": 64, "hidden_dim": 96, "n_layers": 2, "n_heads": 4}
_OPT = {**SMALL, "ffn_dim": 96, "word_embed_proj_dim": 64}
_BLOOM = {"vocab_size": 96, "hidden_size": 64, "n_layer": 2, "n_head": 4}
_MPT = {"vocab_size": 96, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}
# optimum traces with half a minute of sound, whatever the configuration says.
_WHISPER = {**WHISPER, "max_source_positions": 1500}
_CAUSAL, _TRANSLATE = "text-generation-with-past", "text2text-generation-with-past"
_SPEECH_TO_TEXT = "automatic-speech-recognition-with-past"

TASKS = {
    "bert": Task("BertModel", "BertConfig", SMALL, "feature-extraction"),
    "roberta": Task("RobertaModel", "RobertaConfig", SMALL, "feature-extraction"),
    "distilbert": Task("DistilBertModel", "DistilBertConfig", _DISTILBERT, "feature-extraction"),
    "gpt2": Task("GPT2LMHeadModel", "GPT2Config", _GPT2, _CAUSAL),
    "opt": Task("OPTForCausalLM", "OPTConfig", _OPT, _CAUSAL),
    "bloom": Task("BloomForCausalLM", "BloomConfig", _BLOOM, _CAUSAL),
    "mpt": Task("MptForCausalLM", "MptConfig", _MPT, _CAUSAL),
    "llama": Task("LlamaForCausalLM", "LlamaConfig", GROUPED, _CAUSAL),
    "qwen3": Task("Qwen3ForCausalLM", "Qwen3Config", {**GROUPED, "head_dim": 16}, _CAUSAL),
    "t5": Task("T5ForConditionalGeneration", "T5Config", T5, _TRANSLATE),
    "bart": Task("BartForConditionalGeneration", "BartConfig", {**BART, **SPECIAL}, _TRANSLATE),
    "marian": Task("MarianMTModel", "MarianConfig", {**BART, **SPECIAL}, _TRANSLATE),
    "whisper": Task("WhisperForConditionalGeneration", "WhisperConfig", _WHISPER, _SPEECH_TO_TEXT),
    "vit": Task(
        "ViTModel", "ViTConfig", {**VISION, "image_size": 32, "patch_size": 8}, "feature-extraction"
    ),
    "swin": Task("SwinModel", "SwinConfig", {**SWIN, "window_size": 4}, "feature-extraction"),
    "wav2vec2": Task("Wav2Vec2Model", "Wav2Vec2Config", SPEECH, "feature-extraction"),
}


def main() -> None:
    """Parses the command line and exports."""
    import torch

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arch", default=",".join(TASKS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    for arch in options.arch.split(","):
        for record in export_task(arch, TASKS[arch], options.folder):
            append_record(options.folder, record)
            state = f"FAILED {record.failure}" if record.failure else record.runtime
            print(
                f"{record.name:36} {record.blocks:3} blocks {record.seconds:6.1f} s  {state}",
                flush=True,
            )


def export_task(arch: str, task: Task, folder: Path) -> list[Record]:
    """Exports one architecture; optimum splits those with an encoder and a decoder over several files."""
    from optimum.exporters.onnx import onnx_export_from_model

    start = time.perf_counter()
    try:
        import transformers

        config = getattr(transformers, task.config)(**task.options)
        model = seeded(getattr(transformers, task.model)(config))
        with tempfile.TemporaryDirectory() as temporary:
            onnx_export_from_model(
                model, temporary, opset=17, task=task.task, do_validation=False, device="cpu"
            )
            seconds = round(time.perf_counter() - start, 1)
            return [
                _record(arch, model, path, folder, seconds)
                for path in sorted(Path(temporary).glob("*.onnx"))
                # The first branch of the merged decoder is this very graph.
                if path.stem != "decoder_model"
            ]
    except Exception as error:
        name = f"{arch}_{_EXPORTER}"
        return [Record(name, arch, _EXPORTER, 0, first_line(error), "", 0.0, library_versions())]


def _record(
    arch: str, model: torch.nn.Module, source: Path, folder: Path, seconds: float
) -> Record:
    import onnx

    part = "" if source.stem == "model" else "_" + source.stem.replace("_model", "")
    name = f"{arch}_{_EXPORTER}{part}"
    target = folder / f"{name}.onnx"
    shutil.copyfile(source, target)
    graph = onnx.load(target).graph
    run = _encoder if part == "_encoder" else _decoder if "_decoder" in part else _whole
    blocks, samples = 0, []
    for extents in _EXTENTS:
        for cached in (False, True) if "merged" in part else (True,):
            feeds = _feeds(graph, model.config, *extents, cached)
            outputs = run(model, feeds, cached)
            # The branch without a cache and the one with it are both in the graph.
            samples.append(
                Sample(
                    {key: tensor.numpy() for key, tensor in feeds.items()},
                    {key: tensor.detach().numpy() for key, tensor in outputs.items()},
                )
            )
    feeds = _feeds(graph, model.config, *_EXTENTS[0], True)
    blocks = _count(model, lambda: run(model, feeds, True)) * (2 if "merged" in part else 1)
    save_samples(folder / f"{name}.npz", samples)
    return Record(
        name, arch, _EXPORTER, blocks, "", run_check(target, samples), seconds, library_versions()
    )


def _count(model: torch.nn.Module, run: Callable[[], object]) -> int:
    import torch

    class Runs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self) -> None:
            run()

    return count_blocks(Runs(), {})


def _feeds(
    graph: onnx.GraphProto, config: Any, batch: int, length: int, past: int, cached: bool
) -> dict[str, torch.Tensor]:
    """Values for the inputs of a graph, by what optimum calls them."""
    import torch

    generator = torch.Generator().manual_seed(10 * batch + cached)
    names = [value.name for value in graph.input]
    extents = {value.name: value.type.tensor_type.shape.dim for value in graph.input}
    with_past = any(name.startswith("past") for name in names)
    two_part = any("encoder" in name for name in names)
    if with_past and two_part and cached:
        length = 1
    feeds = {}
    for name in names:
        dims = [dim.dim_value for dim in extents[name]]
        if name in ("input_ids", "decoder_input_ids"):
            feeds[name] = torch.randint(3, 96, (batch, length), generator=generator)
        elif name in ("attention_mask", "encoder_attention_mask"):
            own = length + past if with_past else length
            mask = torch.ones((batch, _SOURCE if two_part else own), dtype=torch.int64)
            # Padding stands in front of a cache, and else behind.
            mask[-1, slice(0, 2) if with_past and not two_part else slice(-2, None)] = 0
            feeds[name] = mask
        elif name == "token_type_ids":
            feeds[name] = torch.zeros((batch, length), dtype=torch.int64)
        elif name == "position_ids":
            feeds[name] = torch.arange(past, past + length).expand(batch, length).contiguous()
        elif name == "use_cache_branch":
            feeds[name] = torch.tensor([cached])
        elif name == "encoder_hidden_states":
            source = getattr(config, "max_source_positions", _SOURCE)
            feeds[name] = torch.randn((batch, source, 64), generator=generator)
        elif name.startswith("past"):
            source = getattr(config, "max_source_positions", _SOURCE)
            rows = source if ".encoder." in name else past
            feeds[name] = torch.randn((batch, dims[1], rows, dims[3]), generator=generator)
        elif name == "input_values":
            feeds[name] = torch.randn((batch, 130 + length), generator=generator)
        elif name == "input_features":
            feeds[name] = torch.randn((batch, 16, 3000), generator=generator)
        elif name == "pixel_values":
            feeds[name] = torch.randn((batch, 3, 32, 32), generator=generator)
        else:
            raise ValueError(f"no idea what '{name}' takes")
    return feeds


def _cache(feeds: Mapping[str, torch.Tensor], part: str) -> Any:
    """The past of the inputs named `past_key_values.<layer>.<part>key` and `...value`."""
    from transformers import DynamicCache

    pattern = re.compile(rf"past_key_values\.\d+\.{part}(key|value)")
    values = [tensor for name, tensor in feeds.items() if pattern.fullmatch(name)]
    return DynamicCache.from_legacy_cache(tuple(zip(values[::2], values[1::2], strict=True)))


def _presents(cache: Any, part: str) -> dict[str, torch.Tensor]:
    pairs = enumerate(cache.to_legacy_cache())
    return {
        f"present.{layer}.{part}{kind}": tensor
        for layer, pair in pairs
        for kind, tensor in zip(("key", "value"), pair, strict=True)
    }


def _whole(model: Any, feeds: dict[str, torch.Tensor], _: bool) -> dict[str, torch.Tensor]:
    import torch

    inputs = {name: tensor for name, tensor in feeds.items() if not name.startswith("past")}
    if len(inputs) == len(feeds):
        with torch.no_grad():
            return {"last_hidden_state": model(**inputs).last_hidden_state}
    with torch.no_grad():
        result = model(**inputs, past_key_values=_cache(feeds, ""), use_cache=True)
    return {"logits": result.logits, **_presents(result.past_key_values, "")}


def _encoder(model: Any, feeds: dict[str, torch.Tensor], _: bool) -> dict[str, torch.Tensor]:
    import torch

    encoder = model.get_encoder()
    encoder.config.use_cache = False
    with torch.no_grad():
        return {"last_hidden_state": encoder(**feeds).last_hidden_state}


def _decoder(model: Any, feeds: dict[str, torch.Tensor], cached: bool) -> dict[str, torch.Tensor]:
    import torch
    from transformers import EncoderDecoderCache
    from transformers.modeling_outputs import BaseModelOutput

    hidden = feeds.get("encoder_hidden_states")
    mask = feeds.get("encoder_attention_mask")
    if hidden is None:  # its keys and values are in the cache
        rows = feeds["past_key_values.0.encoder.key"].shape[2]
        hidden = torch.zeros((feeds["input_ids"].shape[0], rows, 64))
    past = None
    if cached:
        past = EncoderDecoderCache(_cache(feeds, "decoder."), _cache(feeds, "encoder."))
    more = {} if mask is None else {"attention_mask": mask}
    with torch.no_grad():
        result = model(
            encoder_outputs=BaseModelOutput(hidden),
            decoder_input_ids=feeds["input_ids"],
            past_key_values=past,
            use_cache=True,
            **more,
        )
    presents = _presents(result.past_key_values.self_attention_cache, "decoder.")
    return {"logits": result.logits, **presents}


if __name__ == "__main__":
    main()
