"""The backbone's configuration: of a checkpoint in the Llama layout, or of the preset. Only config.json is read here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus_core.errors import DataError, UsageError
from nexus_core.hf.config import read_config
from nexus_core.registry import Registry, resolve_path
from nexus_core.suggest import did_you_mean

RANDOM = "random"
# What config.json says about the file rather than about the model.
_ABOUT_THE_FILE = {
    "architectures",
    "model_type",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "_name_or_path",
    "auto_map",
}
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_FLAGS = ("tie_word_embeddings", "attention_bias", "mlp_bias")


@dataclass(frozen=True, slots=True)
class Backbone:
    """The arguments of its LlamaConfig, and where its first weights come from ("random", a registry id, a path)."""

    config: Mapping[str, Any]
    source: str


def find_backbone(registry: Registry, source: str | None, config: Mapping[str, Any] | None) -> Backbone:
    """The checkpoint called `source`; with a `config`, that, with random weights."""
    if config is not None:
        return Backbone(llama_config(config, "the preset's backbone"), RANDOM)
    if source is None:
        raise DataError("neither a checkpoint nor a configuration for the backbone", "give --backbone")
    path, name = locate_backbone(registry, source)
    values = read_config(path)
    if values is None:
        raise DataError(f"{path}: no config.json", "the backbone is the directory of a checkpoint in the Llama layout")
    where = str(path / "config.json")
    if (model_type := values.get("model_type")) != "llama":
        raise DataError(
            f"{where}: model_type {model_type!r}; the backbone must be in the Llama layout",
            "name a checkpoint whose config.json says llama",
        )
    if "quantization_config" in values:
        raise DataError(
            f"{where}: the weights are quantised, and cannot be trained", "name the checkpoint it came from"
        )
    return Backbone(llama_config(values, where), name)


def locate_backbone(registry: Registry, source: str) -> tuple[Path, str]:
    """Directory and name. Teachers are refused, under whatever name: a student never starts from a teacher's weights."""
    taught = {row.id: row for row in registry.teachers.values() if row.role == "teacher"}
    if source in registry.teachers:
        row = registry.teachers[source]
        presence = resolve_path(row)
        if presence.path is None and row.id not in taught:
            raise DataError(f"backbone {source} is absent: {presence.reason}", "name another: --backbone ID_OR_PATH")
        path, name = presence.path, source
    else:
        path, name = Path(source).expanduser().resolve(), str(Path(source).expanduser().resolve())
        if not path.is_dir():
            known = [row.id for row in registry.teachers.values() if row.role == "backbone"]
            raise UsageError(
                f'no backbone "{source}": no directory, and no row of the registry{did_you_mean(source, known)}',
                f"known: {', '.join(known) or 'none'}; or give a directory",
            )
    found = next((id_ for id_, row in taught.items() if id_ == source or _same(resolve_path(row).path, path)), None)
    if found or path is None:
        raise DataError(
            f"{source} is the teacher {found}: a student never starts from a teacher's weights",
            "name a row of role backbone, or a checkpoint that teaches nothing here",
        )
    return path, name


def _same(one: Path | None, other: Path | None) -> bool:
    return one is not None and other is not None and one.resolve() == other.resolve()


def llama_config(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The arguments of LlamaConfig, with what the layout leaves to defaults written out."""
    config = _with_rope({key: value for key, value in values.items() if key not in _ABOUT_THE_FILE})
    for key in _SIZES:
        _positive(config.get(key), key, where)
    heads = config["num_attention_heads"]
    if config.get("num_key_value_heads") is None:
        config["num_key_value_heads"] = heads
    if config.get("head_dim") is None:
        config["head_dim"] = config["hidden_size"] // heads
    for key in ("num_key_value_heads", "head_dim"):
        _positive(config[key], key, where)
    if heads % config["num_key_value_heads"]:
        raise DataError(
            f"{where}: {heads} heads cannot share {config['num_key_value_heads']} keys", "correct one of them"
        )
    for key in _FLAGS:
        if not isinstance(config.setdefault(key, False), bool):
            raise DataError(f"{where}: {key} is {config[key]!r}, not true or false", "correct config.json")
    return config


def _with_rope(config: dict[str, Any]) -> dict[str, Any]:
    """Checkpoints from before transformers 5 spread over two keys what is `rope_parameters` now."""
    scaling, theta = config.pop("rope_scaling", None) or {}, config.pop("rope_theta", None)
    if "rope_parameters" in config or not (scaling or theta):
        return config
    kind = {"rope_type": scaling.get("rope_type") or scaling.get("type") or "default"}
    return {**config, "rope_parameters": {**scaling, **kind, **({"rope_theta": theta} if theta else {})}}


def _positive(value: Any, key: str, where: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        said = "is missing" if value is None else f"is {value!r}, not a positive whole number"
        raise DataError(f"{where}: {key} {said}", "correct config.json")
