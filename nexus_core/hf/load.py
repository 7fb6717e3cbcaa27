"""Load a transformers checkpoint and prove that it was loaded whole.

transformers initialises at random what it does not find, and only warns. Here that is an error which lists the tensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_core.errors import ModelError
from nexus_core.hf.check import check_finite, check_loaded
from nexus_core.hf.config import read_config
from nexus_core.hf.files import refuse_unsafe
from nexus_core.types import Detection, LoadOptions, ModelSource

if TYPE_CHECKING:
    from nexus_core.hf.teacher import HFTeacher


def load_hf_teacher(
    source: ModelSource, options: LoadOptions, detection: Detection, overrides: dict[str, Any] | None = None
) -> HFTeacher:
    """A causal LM from a local directory, resident. `overrides` replaces keys of its config (a foreign model_type)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from nexus_core.hf.quiet import quiet
    from nexus_core.hf.teacher import HFTeacher

    refuse_unsafe(source.path)
    config = _config(source.path, overrides or {})
    offline = {"local_files_only": options.local_files_only, "trust_remote_code": False}
    try:
        with quiet():
            model, report = AutoModelForCausalLM.from_pretrained(
                source.path,
                config=config,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # so that the report names them; `check_loaded` makes them an error
                output_loading_info=True,
                **offline,
                **_precision(options),
            )
        tokenizer = AutoTokenizer.from_pretrained(source.path, config=config, **offline)
    except _transformers_errors() as error:
        raise ModelError(
            f"{source.path}: AutoModelForCausalLM could not load it: {' '.join(str(error).split())[:500]}",
            "check that config.json, *.safetensors and the tokenizer files are complete",
        ) from error
    unused = check_loaded(source.path, report)
    check_finite(source.path, model)
    if options.quantization == "nf4":
        _keep_unpacked(model)
    return HFTeacher(source, detection, model, tokenizer, unused)


def _config(path: Path, overrides: dict[str, Any]) -> Any:
    """The config object, built from the file plus `overrides`; a foreign model_type is read as the one it maps to."""
    from transformers import CONFIG_MAPPING

    values = read_config(path)
    if values is None:
        raise ModelError(f"{path}: no config.json", "a transformers checkpoint needs one beside its weights")
    values |= overrides
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise ModelError(
            f"{path / 'config.json'}: the installed transformers has no model_type {model_type!r}",
            "update transformers, or write a teacher plugin: nexus plugins new teacher NAME",
        )
    try:
        return CONFIG_MAPPING[model_type].from_dict(values)
    except _transformers_errors() as error:
        raise ModelError(
            f"{path / 'config.json'}: {' '.join(str(error).split())[:300]}", "correct the named key"
        ) from error


def _transformers_errors() -> tuple[type[Exception], ...]:
    """What transformers raises on a config or checkpoint that makes no sense: nearly anything."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    builtin = (OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError, ImportError)
    return (*builtin, StrictDataclassError, SafetensorError)


def _keep_unpacked(model: Any) -> None:
    """On a CPU with AVX512-BF16, bitsandbytes repacks NF4 weights at the first forward, and fails on odd shapes.

    It wants whole quantisation blocks in a row and 32 rows in a group; a layer without keeps the portable path.
    """
    from bitsandbytes.nn import Linear4bit

    for layer in model.modules():
        if isinstance(layer, Linear4bit):
            blocksize = layer.weight.quant_state.blocksize
            if layer.in_features % blocksize or layer.out_features % 32:
                layer.support_avx512bf16_for_cpu = False


def _precision(options: LoadOptions) -> dict[str, Any]:
    import torch
    from transformers import BitsAndBytesConfig

    settings: dict[str, Any] = {"device_map": options.device}
    if options.dtype == "auto":
        dtype: Any = "auto"
    elif isinstance(dtype := getattr(torch, options.dtype, None), torch.dtype):
        pass
    else:
        raise ModelError(f"'{options.dtype}' is no torch dtype", "use float32, bfloat16, float16 or auto")
    settings["dtype"] = dtype
    compute = dtype if isinstance(dtype, torch.dtype) else torch.bfloat16
    if options.quantization == "nf4":
        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
        )
    elif options.quantization == "int8":
        settings["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    elif options.quantization is not None:
        raise ModelError(f"unknown quantization '{options.quantization}'", "use nf4 or int8, or leave it out")
    return settings
