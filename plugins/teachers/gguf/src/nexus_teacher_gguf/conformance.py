"""What `nexus plugins check gguf` runs: a tiny Llama written as GGUF, tokenizer and all."""

from __future__ import annotations

from pathlib import Path

from nexus_core.testing import TeacherConformance
from nexus_core.testing.base import require

FILE = "tiny.gguf"


class TestGGUF(TeacherConformance):
    plugin = "gguf"
    model_type = "llama"

    def locate(self, directory: Path) -> Path:
        return directory / FILE

    def build(self, directory: Path) -> None:
        write_tiny_llama(directory / FILE)

    def drop_tensor(self, directory: Path) -> str:
        write_tiny_llama(directory / FILE, without="blk.1.ffn_up.weight")
        return "model.layers.1.mlp.up_proj.weight"

    def test_header_facts_need_no_tensors(self) -> None:
        """detection: the header alone is enough"""
        with self.workdir() as path:
            self.build(path)
            file = self.locate(path)
            before = self.claim(path)
            file.write_bytes(file.read_bytes()[:4096])
            require(self.claim(path) == before, "answers otherwise when the tensors are cut off")


def write_tiny_llama(path: Path, without: str = "") -> None:
    """Two layers of 32, random and seeded, with a vocabulary of the bytes and one merge."""
    import numpy as np
    from gguf import GGUFWriter, TokenType

    from nexus_core.testing.tiny import byte_tokenizer

    tokenizer = byte_tokenizer()
    tokens = [*sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__), "ab"]
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(["a b"])
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    rng = np.random.default_rng(42)
    for name, shape in tensor_shapes(len(tokens)).items():
        if name != without:
            scale = 1.0 if name.endswith("norm.weight") else 0.0
            values = scale + 0.05 * rng.standard_normal(shape)
            writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensor_shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, 32), "output_norm.weight": (32,)}
    shapes["output.weight"] = (vocabulary, 32)
    for layer in range(2):
        block = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
        block |= {"ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
        shapes |= {f"blk.{layer}.{name}.weight": (32,) for name in ("attn_norm", "ffn_norm")}
    return shapes
